package qemu_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
)

// start starts a guest with a qcow2 disk a and a raw disk b.
func start(t testing.TB, images ...string) *qemutest.VM {
	return qemutest.Start(t, []qemutest.Disk{{Name: "a", Path: images[0], Format: "qcow2"}, {Name: "b", Path: images[1], Format: "raw"}})
}

func twoImages(t testing.TB) []string {
	return []string{qemutest.Image(t, "qcow2", size, noise(1<<20, 1)), qemutest.Image(t, "raw", size, noise(1<<20, 2))}
}

// point is a committed freeze: the guest with its disks' tokens.
func point(t testing.TB, vm *qemutest.VM, state string) hypervisor.Guest {
	j := newJob(t, vm, state)
	g := j.inspect()
	f := j.freeze(g)
	must(t, f.Release(t.Context(), true))
	for i := range g.Disks {
		g.Disks[i].Since = f.Tracking[i].Token
	}
	return g
}

// TestWhyChangesAreNotKnown: for every way to lose what has changed there is a reason,
// for the disk that it is about and no other.
func TestWhyChangesAreNotKnown(t *testing.T) {
	for name, c := range map[string]struct {
		lose func(t *testing.T, vm *qemutest.VM, images []string, g *hypervisor.Guest) *qemutest.VM
		a, b string // what the reasons have in them; empty: changes are known
	}{
		"nothing": {func(_ *testing.T, vm *qemutest.VM, _ []string, _ *hypervisor.Guest) *qemutest.VM { return vm }, "", ""},
		"a proper end": {func(t *testing.T, vm *qemutest.VM, images []string, _ *hypervisor.Guest) *qemutest.VM {
			vm.Quit()
			return start(t, images...)
		}, "", "is gone"},
		"kill -9": {func(t *testing.T, vm *qemutest.VM, images []string, _ *hypervisor.Guest) *qemutest.VM {
			vm.Quit() // with the bitmap in the image: from the next start on it counts as in use
			vm = start(t, images...)
			vm.Kill()
			return start(t, images...)
		}, "without saving", "is gone"},
		"disabled": {func(_ *testing.T, vm *qemutest.VM, _ []string, g *hypervisor.Guest) *qemutest.VM {
			vm.Do("block-dirty-bitmap-disable", map[string]string{"node": "a", "name": string(g.Disks[0].Since)}, nil)
			return vm
		}, "does not record", ""},
		"removed": {func(_ *testing.T, vm *qemutest.VM, _ []string, g *hypervisor.Guest) *qemutest.VM {
			vm.Do("block-dirty-bitmap-remove", map[string]string{"node": "b", "name": string(g.Disks[1].Since)}, nil)
			return vm
		}, "", "is gone"},
		"a snapshot inside": {func(t *testing.T, vm *qemutest.VM, _ []string, _ *hypervisor.Guest) *qemutest.VM {
			vm.Do("blockdev-snapshot-internal-sync", map[string]string{"device": "a", "name": "s"}, nil)
			return vm
		}, "snapshots inside", ""},
		"a snapshot outside": {func(t *testing.T, vm *qemutest.VM, _ []string, _ *hypervisor.Guest) *qemutest.VM {
			vm.Do("blockdev-snapshot-sync", map[string]string{"device": "a", "snapshot-file": filepath.Join(t.TempDir(), "over"), "format": "qcow2"}, nil)
			return vm
		}, "is gone", ""},
		"no point": {func(_ *testing.T, vm *qemutest.VM, _ []string, g *hypervisor.Guest) *qemutest.VM {
			g.Disks[0].Since = nil
			return vm
		}, "no earlier point", ""},
	} {
		t.Run(name, func(t *testing.T) {
			images, state := twoImages(t), t.TempDir()
			vm := start(t, images...)
			was := point(t, vm, state)
			vm = c.lose(t, vm, images, &was)
			j := newJob(t, vm, state)
			g := j.inspect()
			for i := range g.Disks {
				g.Disks[i].Since = was.Disks[i].Since
			}
			f := j.freeze(g)
			for i, want := range []string{c.a, c.b} {
				got := f.Tracking[i]
				if (got.Granularity > 0) != (want == "") || !strings.Contains(got.Reason, want) || len(got.Token) == 0 {
					t.Errorf("disk %s is tracked as %+v, want %q", g.Disks[i].Key, got, want)
				}
			}
			must(t, f.Release(t.Context(), true))
			if left := vm.Left(); len(left) > 0 {
				t.Errorf("left in QEMU: %v", left)
			}
			if maps := vm.Bitmaps(); len(maps) != 2 && name != "a snapshot outside" { // what lies below keeps its own
				t.Errorf("bitmaps %v", maps)
			}
		})
	}
}

// TestFullFleecing: where the guest's old data find no room the view breaks and says so;
// the guest notices nothing, and the next job works.
func TestFullFleecing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	fleece := t.TempDir()
	if said, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", fleece).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, said)
	}
	defer func() { must(t, exec.Command("umount", fleece).Run()) }()
	vm, state := start(t, twoImages(t)...), t.TempDir()
	j := newJob(t, vm, state, func(o *qemu.Options) { o.Fleece = fleece })
	g := j.inspect()
	f := j.freeze(g)
	for n := range int64(8) {
		must(t, vm.Write("b", n<<20, noise(1<<20, byte(n))))
	}
	err := f.Changed(t.Context())
	if !errors.Is(err, hypervisor.ErrChanged) || !strings.Contains(err.Error(), fleece) {
		t.Errorf("changed: %v", err)
	}
	im, err := j.Open(t.Context(), g.Disks[1])
	must(t, err)
	if _, err := im.ReadAt(make([]byte, 4096), 0); !errors.Is(err, hypervisor.ErrChanged) {
		t.Errorf("read: %v", err)
	}
	must(t, im.Close())
	must(t, f.Release(t.Context(), false))
	if left := vm.Left(); len(left) > 0 {
		t.Errorf("left in QEMU: %v", left)
	}
	point(t, vm, state)
}

// TestDiskGoesWhileFrozen: a disk that is unplugged in mid-job is read to its end, and all
// is let go of.
func TestDiskGoesWhileFrozen(t *testing.T) {
	images, state := twoImages(t), t.TempDir()
	vm := qemutest.Start(t, []qemutest.Disk{{Name: "a", Path: images[0], Format: "qcow2"}}, "-drive", "if=none,id=b,format=raw,file="+images[1],
		"-device", "pcie-root-port,id=rp,chassis=1", "-device", "virtio-blk-pci,drive=b,id=gone,bus=rp")
	j := newJob(t, vm, state)
	g := j.inspect()
	f := j.freeze(g)
	vm.Do("device_del", map[string]string{"id": "gone"}, nil)
	vm.Do("system_reset", nil, nil) // without an operating system this is when the device goes
	want := append(noise(1<<20, 2), make([]byte, size-1<<20)...)
	if !bytes.Equal(j.read(g.Disks[1]), want) {
		t.Error("the disk does not show the instant")
	}
	must(t, f.Changed(t.Context()))
	must(t, f.Release(t.Context(), true))
	if left := vm.Left(); len(left) > 0 {
		t.Errorf("left in QEMU: %v", left)
	}
	if _, err := newJob(t, vm, state).Freeze(t.Context(), g, hypervisor.AppPreferred); !errors.Is(err, hypervisor.ErrChanged) {
		t.Errorf("freezing what is not there any more: %v", err)
	}
	point(t, vm, state)
}

// TestQEMUDiesWhileFrozen: what is said is that the instant is gone, at once, and nothing
// hangs.
func TestQEMUDiesWhileFrozen(t *testing.T) {
	images, state := twoImages(t), t.TempDir()
	vm := start(t, images...)
	j := newJob(t, vm, state)
	g := j.inspect()
	f := j.freeze(g)
	im, err := j.Open(t.Context(), g.Disks[0])
	must(t, err)
	vm.Kill()
	if _, err := im.ReadAt(make([]byte, 4096), 0); err == nil {
		t.Error("a dead QEMU was read from")
	}
	must(t, im.Close())
	if err := f.Changed(t.Context()); !errors.Is(err, hypervisor.ErrChanged) {
		t.Errorf("changed: %v", err)
	}
	if _, err := newJob(t, vm, state).Resume(t.Context(), g, f.Record()); err == nil {
		t.Error("it was taken up again by another job")
	}
	_ = f.Release(t.Context(), false)
	again := start(t, images...)
	point(t, again, state)
}

// TestPausedGuestStaysPaused: one that its operator has paused is not ours to let go on.
func TestPausedGuestStaysPaused(t *testing.T) {
	vm, state := start(t, twoImages(t)...), t.TempDir()
	vm.Do("stop", nil, nil)
	j := newJob(t, vm, state)
	f := j.freeze(j.inspect())
	if f.Consistency != hypervisor.CrashConsistent || !strings.Contains(f.Reason, "paused") {
		t.Errorf("%s: %s", f.Consistency, f.Reason)
	}
	must(t, f.Release(t.Context(), true))
	var status struct{ Status string }
	vm.Do("query-status", nil, &status)
	if status.Status != "paused" {
		t.Errorf("the guest is %s", status.Status)
	}
	vm.Do("cont", nil, nil)
	point(t, vm, state) // files that are let go of QEMU closes only when its guest runs
	if left := vm.Left(); len(left) > 0 {
		t.Errorf("left in QEMU: %v", left)
	}
}

// TestOthersAreLeftAlone: nodes, exports and bitmaps of others stay, and a server of
// theirs is said to be in the way.
func TestOthersAreLeftAlone(t *testing.T) {
	vm, state := start(t, twoImages(t)...), t.TempDir()
	vm.Do("block-dirty-bitmap-add", map[string]string{"node": "a", "name": "theirs"}, nil)
	vm.Do("block-dirty-bitmap-add", map[string]string{"node": "a", "name": "millrace-00000000-11111111"}, nil) // of another vault
	vm.Do("nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]string{"path": filepath.Join(t.TempDir(), "n")}}}, nil)
	j := newJob(t, vm, state)
	_, err := j.Freeze(t.Context(), j.inspect(), hypervisor.AppPreferred)
	if err == nil || !strings.Contains(err.Error(), "another program serves") {
		t.Errorf("%v", err)
	}
	if left := vm.Left(); len(left) > 0 {
		t.Errorf("left in QEMU: %v", left)
	}
	vm.Do("nbd-server-stop", nil, nil) // it is still theirs
	point(t, vm, state)
	if maps := fmt.Sprint(vm.Bitmaps()); !strings.Contains(maps, "/theirs") || !strings.Contains(maps, "/millrace-00000000-11111111") {
		t.Errorf("bitmaps %v", maps)
	}
}
