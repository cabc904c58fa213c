#!/bin/bash
# Makes a small bootable Linux disk, without root and without mounting anything.
#
#   build.sh OUT.raw SIZE_MIB [FOLDER] [agent]     FOLDER is copied to /srv of the guest
#
# With "agent" the guest runs QEMU's guest agent (Debian's package, with the libraries
# that it needs of this machine) on the port org.qemu.guest_agent.0.
#
# Two partitions behind an MBR: a FAT boot partition with syslinux, Debian's
# cloud kernel and an initial ramdisk made of busybox; and the ext4 root. On its
# first serial port the guest prints, once it has written to its own disk,
#
#   GUEST-READY boots=N srv=SUM
#
# where N counts the boots of this disk and SUM is the SHA-256 over all files of
# /srv; then it gives a shell. The word "poweroff" on its kernel command line or
# in the shell stops it.
#
# The kernel package is fetched once with apt-get and kept unpacked in
# ${XDG_CACHE_HOME:-$HOME/.cache}/millrace/guest-kernel.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
out=$1 size_mib=$2 payload=${3:-} agent=${4:-}

boot_mib=32
root_at=$((1 + boot_mib))
root_mib=$((size_mib - root_at - 1))
[ "$root_mib" -ge 16 ] || { echo "a guest needs at least $((root_at + 17)) MiB, not $size_mib" >&2; exit 2; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/guest-kernel
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- the kernel ---------------------------------------------------------------
if [ ! -d "$cache" ]; then
  mkdir -p "$work/deb" "${cache%/*}"
  package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  [ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64: run apt-get update first" >&2; exit 3; }
  (cd "$work/deb" && apt-get -q download "$package" >log 2>&1) || { cat "$work/deb/log" >&2; exit 3; }
  dpkg-deb -x "$work"/deb/*.deb "$work/kernel"
  mv -T "$work/kernel" "$cache" 2>/dev/null || [ -d "$cache" ]   # another build may have been first
fi
kernel=$(echo "$cache"/boot/vmlinuz-*)

# --- the initial ramdisk ------------------------------------------------------
# Modules are loaded in rounds until the disk shows: they need each other, and
# this is shorter than a dependency solver. Disks may be virtio, SCSI or IDE.
ram=$work/ram
mkdir -p "$ram"/{bin,dev,proc,sys,root,modules}
cp /bin/busybox "$ram/bin/busybox"
for module in virtio virtio_ring virtio_pci virtio_pci_legacy_dev virtio_pci_modern_dev virtio_blk virtio_scsi \
    virtio_console scsi_common scsi_mod sd_mod libata ata_piix ata_generic ahci libahci \
    crc16 crc32c_generic libcrc32c crc-t10dif crct10dif_common crct10dif_generic t10-pi crc64 crc64-rocksoft mbcache jbd2 ext4; do
  find "$cache/lib/modules" -name "$module.ko*" -exec cp {} "$ram/modules/" \;
done
find "$ram/modules" -name '*.xz' -exec unxz {} +
cat >"$ram/init" <<'SCRIPT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
round=0
while [ $round -lt 200 ]; do
  if [ $round -lt 5 ]; then for m in /modules/*.ko; do insmod $m 2>/dev/null; done; fi
  for disk in /dev/vda2 /dev/sda2 /dev/hda2; do [ -b $disk ] && break 2; done
  round=$((round + 1)); sleep 0.05
done
mount -t ext4 $disk /root || { echo "GUEST-BROKEN no root on $disk"; exec sh; }
for d in dev proc sys; do mount --move /$d /root/$d; done
exec switch_root /root /sbin/init
SCRIPT
chmod +x "$ram/init"
(cd "$ram" && find . | sort | cpio --quiet -o -H newc | gzip -n -1) >"$work/initrd"

# --- the root file system -----------------------------------------------------
root=$work/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,etc,var/log,root,tmp,srv,run}
cp /bin/busybox "$root/bin/busybox"
ln -s ../bin/busybox "$root/sbin/init"
for tool in $(/bin/busybox --list); do
  [ "$tool" = busybox ] || ln -s busybox "$root/bin/$tool"
done
printf '::sysinit:/etc/start\nttyS0::respawn:/bin/sh -l\n' >"$root/etc/inittab"
cat >"$root/etc/start" <<'SCRIPT'
#!/bin/sh
mount -o remount,rw /
mount -t tmpfs run /run
boots=$(cat /var/log/boots 2>/dev/null || echo 0)
boots=$((boots + 1))
echo $boots >/var/log/boots
sync
sum=$(cd /srv && find . -type f | sort | xargs -r sha256sum | sha256sum | cut -d ' ' -f 1)
echo "GUEST-READY boots=$boots srv=$sum"
grep -q -w poweroff /proc/cmdline && poweroff -f
exit 0
SCRIPT
chmod +x "$root/etc/start"
# The shell must not wait for a file system that is frozen.
echo 'export HISTFILE=/run/history' >"$root/etc/profile"
if [ "$agent" = agent ]; then
  ga=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/guest-agent
  if [ ! -d "$ga" ]; then
    mkdir -p "$work/gadeb"
    (cd "$work/gadeb" && apt-get -q download qemu-guest-agent >log 2>&1) || { cat "$work/gadeb/log" >&2; exit 3; }
    dpkg-deb -x "$work"/gadeb/*.deb "$work/ga"
    mv -T "$work/ga" "$ga" 2>/dev/null || [ -d "$ga" ]
  fi
  cp "$ga/usr/sbin/qemu-ga" "$root/bin/"
  if ldd "$ga/usr/sbin/qemu-ga" | grep 'not found' >&2; then exit 3; fi
  ldd "$ga/usr/sbin/qemu-ga" | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "$root${lib%/*}"
    cp -L "$lib" "$root$lib"
  done
  # Its state is in memory, as it is in a real guest: on a file system that is frozen it
  # would say so for ever. A test that makes /run/no-agent and kills it has no agent, and
  # a program /run/hook is asked before each freeze and after each thaw.
  cat >"$root/etc/agent" <<'SCRIPT'
#!/bin/sh
while [ -e /run/no-agent ]; do sleep 0.1; done
exec qemu-ga -m virtio-serial -p /dev/vport0p1 -t /run -F/etc/hook
SCRIPT
  printf '#!/bin/sh\n[ ! -x /run/hook ] || exec /run/hook "$1"\n' >"$root/etc/hook"
  chmod +x "$root/etc/agent" "$root/etc/hook"
  printf '::respawn:/etc/agent\n' >>"$root/etc/inittab"
fi
[ -z "$payload" ] || cp -a "$payload"/. "$root/srv/"
mke2fs -q -F -t ext4 -b 4096 -L guestroot -d "$root" "$work/ext4" "${root_mib}M"

# --- the disk -----------------------------------------------------------------
# Numbers of an MBR entry are little-endian; the C/H/S fields are unused.
le32() { local n=$1; printf '\\x%02x\\x%02x\\x%02x\\x%02x' $((n & 255)) $((n >> 8 & 255)) $((n >> 16 & 255)) $((n >> 24 & 255)); }
entry() { # ACTIVE TYPE FIRST_MIB COUNT_MIB
  printf "\\x$1\\xfe\\xff\\xff\\x$2\\xfe\\xff\\xff$(le32 $(($3 * 2048)))$(le32 $(($4 * 2048)))"
}
part=$out.part
rm -f "$part"
truncate -s "${size_mib}M" "$part"
put() { dd of="$part" conv=notrunc,sparse bs=1 status=none "$@"; }
put if=/usr/lib/syslinux/mbr/mbr.bin count=440
{ printf 'MRLL\0\0'; entry 80 0e 1 $boot_mib; entry 00 83 $root_at $root_mib; } | put seek=440
printf '\x55\xaa' | put seek=510

mformat -i "$part@@1M" -T $((boot_mib * 2048)) -h 255 -s 63 -H 2048 -v BOOT -N 4d524c4c ::
cat >"$work/syslinux.cfg" <<'CONFIG'
SERIAL 0 115200
DEFAULT linux
PROMPT 0
LABEL linux
 KERNEL vmlinuz
 INITRD initrd
 APPEND console=ttyS0 quiet panic=-1
CONFIG
mcopy -i "$part@@1M" "$kernel" ::vmlinuz
mcopy -i "$part@@1M" "$work/initrd" "$work/syslinux.cfg" ::
syslinux --install --offset $((1 << 20)) "$part"
dd if="$work/ext4" of="$part" bs=1M seek=$root_at conv=notrunc,sparse status=none
mv "$part" "$out"
