package launch

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
)

// A guest as its point has it: what it had it has again, by the names of today's disks.
func TestArgs(t *testing.T) {
	boot := 1
	args, notes := Args(Spec{Folder: "/r", Name: "web", Isolated: true, Accel: "tcg", Reconnect: time.Minute,
		Config: machine.Configuration{Kind: "qemu", UUID: "11111111-2222-3333-4444-555555555555", Machine: "pc-q35-7.2", CPUs: 3, Memory: 1 << 30,
			Disks: []machine.ConfigDisk{{Key: "a", Device: "scsi-hd", Serial: "S1", Boot: &boot}, {Key: "b", Device: "ide-hd"}, {Key: "c", Device: "nvme"}},
			NICs:  []machine.ConfigDevice{{Device: "e1000", MAC: "52:54:00:12:34:56"}}},
		Disks: []Disk{{Key: "a", Socket: "/r/nbd", Export: "disk0"}, {Key: "b", Socket: "/r/nbd", Export: "disk1"}, {Key: "c", File: "/h/c.raw"}, {Key: "new", Socket: "/r/nbd", Export: "disk3", ReadOnly: true}}})
	if len(notes) > 0 {
		t.Errorf("notes %q", notes)
	}
	line := strings.Join(args, " ")
	for _, want := range []string{
		"-name guest=web -machine pc-q35-7.2,accel=tcg -cpu max -smp 3 -m 1024M -uuid 11111111-2222-3333-4444-555555555555",
		"-blockdev driver=nbd,node-name=millrace-run-0,server.type=unix,server.path=/r/nbd,export=disk0,reconnect-delay=60,discard=unmap,detect-zeroes=unmap,read-only=off -device virtio-scsi-pci,id=millrace-scsi -device scsi-hd,drive=millrace-run-0,bus=millrace-scsi.0,bootindex=2,werror=stop,rerror=stop,serial=S1",
		"-device ide-hd,drive=millrace-run-1,bus=ide.0,bootindex=2,",
		"-blockdev driver=raw,node-name=millrace-run-2,discard=unmap,read-only=off,file.driver=file,file.discard=unmap,file.filename=/h/c.raw -device nvme,drive=millrace-run-2,bootindex=3,serial=millrace-run-2",
		"read-only=on -device virtio-blk-pci,drive=millrace-run-3,bootindex=4,werror=stop,rerror=stop",
		"-nic none -netdev hubport,hubid=0,id=net0 -device e1000,netdev=net0,mac=52:54:00:12:34:56",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in\n%s", want, line)
		}
	}
}

// A configuration out of a vault chooses among what there is, and can say nothing else to QEMU.
func TestHostileConfiguration(t *testing.T) {
	bad := "x,file=/etc/shadow\n-drive,readonly=on"
	args, notes := Args(Spec{Folder: "/r", Name: bad, Config: machine.Configuration{Machine: bad, CPUs: 1 << 30, Memory: -5, UUID: bad, CPU: bad,
		Firmware: []machine.Firmware{{Key: bad, File: "/etc/shadow"}, {Key: bad, File: bad}, {Key: bad, Data: []byte{1}}},
		Disks:    []machine.ConfigDisk{{Key: "a", Device: bad, Serial: bad, Bus: bad}}, NICs: slices.Repeat([]machine.ConfigDevice{{Device: bad, MAC: bad}}, 100)},
		Disks: []Disk{{Key: "a", Socket: "/r/" + bad, Export: bad}}})
	if len(notes) == 0 {
		t.Error("nothing is said")
	}
	for n, a := range args {
		if strings.ContainsAny(a, "\n\x00") {
			t.Errorf("argument %q", a)
		}
		// What is quoted has two commas; what is left must be options of ours.
		for _, option := range strings.Split(strings.ReplaceAll(a, ",,", ""), ",") {
			if name, value, _ := strings.Cut(option, "="); strings.HasPrefix(value, "/etc") || name == "readonly" || name == "file" && value != "" {
				t.Errorf("argument %d, %q, has option %q", n, a, option)
			}
		}
	}
	if i := slices.Index(args, "-smp"); args[i+1] != "256" {
		t.Errorf("processors %s", args[i+1])
	}
}
