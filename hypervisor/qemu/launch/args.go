package launch

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
)

// Program is QEMU's.
const Program = "qemu-system-x86_64"

// Spec is a guest to be started.
type Spec struct {
	Folder    string // of the run: sockets, logs and firmware variables are there. Its path is short enough for sockets
	Name      string
	UUID      string // empty: the configuration's, or none
	Config    machine.Configuration
	Disks     []Disk
	Isolated  bool          // its network cards lead nowhere
	Memory    int64         // bytes; 0: the configuration's, or 512 MiB
	CPUs      int           // 0: the configuration's, or 1
	Accel     string        // "kvm" or "tcg"; empty: tcg unless the configuration says kvm and it can be used
	Reconnect time.Duration // how long its disks wait for a server that went away; 0: 10 minutes
}

// Disk is a disk that somebody serves.
type Disk struct {
	Key      string // as in the configuration
	Socket   string // path of the NBD server's
	Export   string
	ReadOnly bool
	File     string // a raw file instead, which nobody has to serve
}

const (
	qmpName    = "qmp"
	secondName = "qmp2" // for others: a QMP socket serves one at a time
	agentName  = "agent"
	// A socket into the guest's serial port; what comes out of it goes to the log, too.
	consoleName = "console"
	serialName  = "serial.log"
	logName     = "qemu.log"
	nvramName   = "nvram"
)

var (
	machineName = regexp.MustCompile(`^pc-(i440fx|q35)-[0-9]+\.[0-9]+$`)
	macForm     = regexp.MustCompile(`^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)
	uuidForm    = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	nicModels   = []string{"virtio-net-pci", "e1000", "e1000e", "rtl8139", "vmxnet3", "pcnet"}
)

// quote makes a value of an option of any text.
func quote(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, s)
	return strings.ReplaceAll(s, ",", ",,")
}

// Args makes the arguments of [Program]. Notes say what is not as the configuration wants it.
func Args(s Spec) (args, notes []string) {
	b := builder{spec: s}
	b.machine()
	b.disks()
	b.nics()
	f := func(name string) string { return quote(filepath.Join(s.Folder, name)) }
	b.add("-chardev", "socket,id=serial,server=on,wait=off,path="+f(consoleName)+",logfile="+f(serialName)+",logappend=on", "-serial", "chardev:serial",
		"-chardev", "socket,id=agent,server=on,wait=off,path="+f(agentName), "-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-qmp", "unix:"+f(qmpName)+",server=on,wait=off", "-qmp", "unix:"+f(secondName)+",server=on,wait=off",
		"-display", "none", "-vga", "std", "-monitor", "none", "-parallel", "none")
	return b.args, b.notes
}

type builder struct {
	spec        Spec
	args, notes []string
}

func (b *builder) add(args ...string) { b.args = append(b.args, args...) }

func (b *builder) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

func (b *builder) machine() {
	s, c := b.spec, b.spec.Config
	kind := c.Machine
	if kind == "" {
		kind = "pc"
	} else if !machineName.MatchString(kind) {
		b.note("machine type %.60q is not known here: it is a pc", kind)
		kind = "pc"
	}
	accel := s.Accel
	if accel == "" {
		accel = "tcg"
		if c.KVM && usableKVM() {
			accel = "kvm"
		} else if c.KVM {
			b.note("the guest ran with KVM, which this machine cannot give it: its processor is emulated, which is slow")
		}
	}
	cpu := "max"
	if accel == "kvm" {
		cpu = "host"
	}
	cpus := min(cmp.Or(s.CPUs, c.CPUs, 1), 256)
	memory := max(cmp.Or(s.Memory, c.Memory, 512<<20)>>20, 64)
	b.add("-no-user-config", "-nodefaults", "-name", "guest="+quote(s.Name), "-machine", kind+",accel="+accel, "-cpu", cpu,
		"-smp", strconv.Itoa(max(cpus, 1)), "-m", strconv.FormatInt(memory, 10)+"M")
	uuid := cmp.Or(s.UUID, c.UUID)
	if uuidForm.MatchString(uuid) {
		b.add("-uuid", uuid)
	}
	for n, f := range c.Firmware {
		switch {
		case n > 1:
			b.note("firmware %.60q is left out: a machine has two", f.Key)
		case len(f.Data) > 0:
			b.add("-drive", fmt.Sprintf("if=pflash,unit=%d,format=raw,file=%s", n, quote(filepath.Join(s.Folder, nvramName))))
		case slices.Contains(firmwareFiles, f.File):
			b.add("-drive", fmt.Sprintf("if=pflash,unit=%d,format=raw,readonly=on,file=%s", n, quote(f.File)))
		default:
			b.note("firmware %.100q is none of those that this program takes: the guest starts with QEMU's own", f.File)
		}
	}
}

// firmwareFiles are where distributions have the code of UEFI. A path out of a point is opened
// only if it is one of these.
var firmwareFiles = []string{
	"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
	"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/OVMF.fd",
}

// bus is where disks of one kind are plugged in.
func (b *builder) disks() {
	controllers := map[string]bool{}
	need := func(id, device string) {
		if !controllers[id] {
			controllers[id] = true
			b.add("-device", device+",id="+id)
		}
	}
	ide := 0
	for n, d := range b.spec.Disks {
		node := fmt.Sprintf("millrace-run-%d", n)
		wait := cmp.Or(b.spec.Reconnect, 10*time.Minute)
		readOnly := "off"
		if d.ReadOnly {
			readOnly = "on"
		}
		b.add("-blockdev", fmt.Sprintf("driver=nbd,node-name=%s,server.type=unix,server.path=%s,export=%s,reconnect-delay=%d,discard=unmap,detect-zeroes=unmap,read-only=%s",
			node, quote(d.Socket), quote(d.Export), int(wait.Seconds()), readOnly))
		if d.File != "" {
			b.args[len(b.args)-1] = fmt.Sprintf("driver=raw,node-name=%s,discard=unmap,read-only=%s,file.driver=file,file.discard=unmap,file.filename=%s", node, readOnly, quote(d.File))
		}
		device, boot, serial := "virtio-blk-pci", n+1, ""
		for _, c := range b.spec.Config.Disks {
			if c.Key == d.Key {
				device, serial = c.Device, c.Serial
				if c.Boot != nil {
					boot = *c.Boot + 1
				}
			}
		}
		where := ""
		switch device {
		case "virtio-blk-pci", "virtio-blk-device", "virtio-blk":
			device = "virtio-blk-pci"
		case "scsi-hd":
			need("millrace-scsi", "virtio-scsi-pci")
			where = ",bus=millrace-scsi.0"
		case "ide-hd":
			// The first four have a place on a PC's own controller; q35 has six of one each.
			if strings.Contains(b.spec.Config.Machine, "q35") {
				where = fmt.Sprintf(",bus=ide.%d", ide)
			} else {
				where = fmt.Sprintf(",bus=ide.%d,unit=%d", ide/2, ide%2)
			}
			if ide++; ide > 4 {
				b.note("disk %.60q does not fit on the IDE controller: it is a virtio disk", d.Key)
				device, where = "virtio-blk-pci", ""
			}
		case "nvme":
			serial = cmp.Or(serial, node)
		default:
			b.note("disk %.60q was a %.60q, which is not known here: it is a virtio disk", d.Key, device)
			device = "virtio-blk-pci"
		}
		arg := fmt.Sprintf("%s,drive=%s%s,bootindex=%d", device, node, where, boot)
		if device != "nvme" { // which has no such policy: an error reaches the guest
			arg += ",werror=stop,rerror=stop"
		}
		if serial != "" {
			arg += ",serial=" + quote(serial)
		}
		b.add("-device", arg)
	}
}

func (b *builder) nics() {
	b.add("-nic", "none")
	for n, c := range b.spec.Config.NICs[:min(len(b.spec.Config.NICs), 16)] {
		model := c.Device
		if !slices.Contains(nicModels, model) {
			b.note("network card %.60q is not known here: it is a virtio one", c.Device)
			model = "virtio-net-pci"
		}
		id := fmt.Sprintf("net%d", n)
		if b.spec.Isolated {
			b.add("-netdev", "hubport,hubid="+strconv.Itoa(n)+",id="+id)
		} else {
			b.add("-netdev", "user,id="+id)
		}
		arg := model + ",netdev=" + id
		if macForm.MatchString(c.MAC) {
			arg += ",mac=" + c.MAC
		}
		b.add("-device", arg)
	}
	if len(b.spec.Config.NICs) > 0 && !b.spec.Isolated {
		b.note("the guest's network is QEMU's own (user mode): it reaches out, and is not reached; its bridges are not known here")
	}
}
