package folder_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

const machineID = "0aa394fa-7c4a-4070-ba32-773d43b28a68"

// exported makes a tree as Hyper-V exports a machine: two disks, one of which has a
// checkpoint and a branch left over from one, a pass-through disk and one that is
// not there. It returns what the guest sees of its disks.
func exported(t testing.TB, dir string, encode func(vmconfig.Machine) []byte, ext string) map[string]vdisk.Image {
	t.Helper()
	disks := filepath.Join(dir, "Virtual Hard Disks")
	for _, d := range []string{"Virtual Machines", "Virtual Hard Disks", "Snapshots"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	a, z := image(4<<20, 1), image(4<<20, 2)
	must(t, drivertest.VHDX(filepath.Join(disks, "boot.vhdx"), z))
	must(t, drivertest.VHDX(filepath.Join(disks, "a.vhdx"), a))
	merged, err := drivertest.Checkpoint(filepath.Join(disks, "a_1.avhdx"), filepath.Join(disks, "a.vhdx"), 1)
	must(t, err)
	_, err = drivertest.Checkpoint(filepath.Join(disks, "a_2.avhdx"), filepath.Join(disks, "a.vhdx"), 2)
	must(t, err)
	vhd := func(location int, path string) vmconfig.Disk {
		return vmconfig.Disk{Controller: "SCSI", Location: location, Type: "VHD", Path: path}
	}
	m := vmconfig.Machine{
		Name: "web server", ID: machineID, Kind: "Virtual Machines", Generation: 2, Version: "9.0", Processors: 4, Memory: 4096,
		Disks: []vmconfig.Disk{
			vhd(0, `C:\VMs\Virtual Hard Disks\boot.vhdx`),
			vhd(1, `C:\VMs\Virtual Hard Disks\A_1.avhdx`),
			vhd(2, `E:\elsewhere\gone.vhdx`),
			{Controller: "SCSI", Location: 5, Type: "PHYSICAL"},
		},
	}
	put(t, filepath.Join(dir, "Virtual Machines", strings.ToUpper(machineID)+ext), encode(m))
	put(t, filepath.Join(dir, "Virtual Machines", strings.ToUpper(machineID)+".vmgs"), []byte("state"))
	p := vmconfig.Machine{Name: "before the update", ID: "11111111-7c4a-4070-ba32-773d43b28a68", Kind: "Snapshots", Disks: []vmconfig.Disk{vhd(1, `C:\VMs\Virtual Hard Disks\a_2.avhdx`)}}
	put(t, filepath.Join(dir, "Snapshots", strings.ToUpper(p.ID)+ext), encode(p))
	return map[string]vdisk.Image{"boot.vhdx": vdisktest.FromBytes(z), "a_1.avhdx": vdisktest.FromBytes(merged)}
}

func TestDriverOnAnExport(t *testing.T) {
	drivertest.Run(t, func(tb testing.TB) drivertest.Subject {
		dir := tb.TempDir()
		return drivertest.Subject{
			Want:   exported(tb, dir, drivertest.VMCX, ".vmcx"),
			Driver: folder.New(dir, options),
			Again:  func() drivertest.Driver { return folder.New(dir, options) },
			Write: func(_ string, _ int64, b []byte) error {
				return overwrite(filepath.Join(dir, "Virtual Hard Disks", "a.vhdx"), 400, b)
			},
		}
	})
}

func inspectOne(t *testing.T, dir string) hypervisor.Guest {
	t.Helper()
	g, err := folder.New(dir, options).Inspect(t.Context())
	must(t, err)
	return g[0]
}

func keysOf(g hypervisor.Guest) string {
	var out []string
	for _, d := range g.Disks {
		out = append(out, d.Key)
	}
	return strings.Join(out, " ")
}

func reasonsOf(g hypervisor.Guest) string {
	var out []string
	for _, u := range g.Unprotected {
		out = append(out, u.Key+": "+u.Reason)
	}
	return strings.Join(out, "\n")
}

func TestExport(t *testing.T) {
	for ext, encode := range map[string]func(vmconfig.Machine) []byte{".vmcx": drivertest.VMCX, ".xml": drivertest.XML} {
		dir := t.TempDir()
		exported(t, dir, encode, ext)
		g := inspectOne(t, dir)
		if g.Name != "web server" || g.ID.String() != machineID || keysOf(g) != "boot.vhdx a_1.avhdx" {
			t.Errorf("%s: %s %s with disks %s", ext, g.Name, g.ID, keysOf(g))
		}
		want := `Snapshots/11111111-7C4A-4070-BA32-773D43B28A68` + ext + `: the configuration of a checkpoint; points hold the running state
Virtual Machines/0AA394FA-7C4A-4070-BA32-773D43B28A68.vmgs: firmware variables and TPM of the machine; points hold its disks
SCSI 0:2 gone.vhdx: the configuration names E:\elsewhere\gone.vhdx, which is not in the folder
SCSI 0:5: a disk of type PHYSICAL, which is not in a file (a pass-through disk)
a_2.avhdx: the disk of checkpoint "before the update", which the machine does not run on`
		if got := reasonsOf(g); got != want {
			t.Errorf("unprotected\n%s\nwant\n%s", got, want)
		}
		c, err := folder.ReadConfiguration(g.Config)
		must(t, err)
		if c.Machine == nil || c.Machine.Processors != 4 || len(c.Machine.Disks) != 4 || len(c.Checkpoints) != 1 || len(c.SHA256) != 64 || len(c.Remarks) != 0 || !json.Valid(g.Config) {
			t.Errorf("%s", g.Config)
		}
		// The id of a disk stays when a checkpoint gives it another file.
		next := filepath.Join(dir, "Virtual Hard Disks", "a_3.avhdx")
		_, err = drivertest.Checkpoint(next, filepath.Join(dir, "Virtual Hard Disks", "a_1.avhdx"), 3)
		must(t, err)
		file := filepath.Join(dir, "Virtual Machines", strings.ToUpper(machineID)+ext)
		m := *c.Machine
		m.Disks[1].Path = `C:\VMs\Virtual Hard Disks\a_3.avhdx`
		put(t, file, encode(m))
		again := inspectOne(t, dir)
		if keysOf(again) != "boot.vhdx a_3.avhdx" || again.Disks[1].ID != g.Disks[1].ID || again.ID != g.ID {
			t.Errorf("after a checkpoint: %s %+v", keysOf(again), again.Disks)
		}
		// A guest with an id keeps it: workers know it from the job.
		named, err := folder.New(dir, folder.Options{GuestID: id.Guest{9}}).Inspect(t.Context())
		must(t, err)
		if named[0].ID != (id.Guest{9}) {
			t.Errorf("id %s", named[0].ID)
		}
	}
}

// Whatever is wrong with a configuration, disks are backed up.
func TestExportWithoutItsConfiguration(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, file string){
		"garbage": func(t *testing.T, file string) { put(t, file, []byte("garbage and more")) },
		"empty":   func(t *testing.T, file string) { put(t, file, nil) },
		"gone":    func(t *testing.T, file string) { must(t, os.Remove(file)) },
		"two": func(t *testing.T, file string) {
			put(t, filepath.Join(filepath.Dir(file), "x.vmcx"), drivertest.VMCX(vmconfig.Machine{Name: "other", ID: machineID}))
		},
		"no disks in it": func(t *testing.T, file string) { put(t, file, drivertest.VMCX(vmconfig.Machine{Name: "other"})) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			exported(t, dir, drivertest.VMCX, ".vmcx")
			spoil(t, filepath.Join(dir, "Virtual Machines", strings.ToUpper(machineID)+".vmcx"))
			g := inspectOne(t, dir)
			if keysOf(g) != "a_1.avhdx a_2.avhdx boot.vhdx" {
				t.Errorf("disks %s", keysOf(g))
			}
			if g.ID != id.NewGuest(options.Vault, g.Source) && name != "two" {
				t.Errorf("id %s", g.ID)
			}
			c, err := folder.ReadConfiguration(g.Config)
			must(t, err)
			if said := len(c.Remarks) > 0 && reasonsOf(g) != ""; !said && name != "gone" {
				t.Errorf("nothing was said: %s\n%s", g.Config, reasonsOf(g))
			}
		})
	}
}

// A disk that the configuration does not name is backed up all the same.
func TestExportWithMoreDisks(t *testing.T) {
	dir := t.TempDir()
	exported(t, dir, drivertest.VMCX, ".vmcx")
	must(t, drivertest.VHDX(filepath.Join(dir, "Snapshots", "boot.vhdx"), image(1<<20, 9)))
	g := inspectOne(t, dir)
	if got := keysOf(g); got != "Virtual Hard Disks~boot.vhdx a_1.avhdx Snapshots~boot.vhdx" {
		t.Errorf("disks %s", got)
	}
	if !strings.Contains(string(g.Config), "Snapshots/boot.vhdx: not named by the configuration") {
		t.Errorf("%s", g.Config)
	}
}

// However much a configuration says, what is kept of it fits into a fact.
func TestExportThatSaysTooMuch(t *testing.T) {
	dir := t.TempDir()
	exported(t, dir, drivertest.VMCX, ".vmcx")
	m := vmconfig.Machine{Name: strings.Repeat("x", 5000), ID: machineID}
	for n := range 500 {
		m.Disks = append(m.Disks, vmconfig.Disk{Controller: "SCSI", Number: n / 64, Location: n % 64, Type: "VHD", Path: `C:\` + strings.Repeat("y", 3900)})
	}
	put(t, filepath.Join(dir, "Virtual Machines", strings.ToUpper(machineID)+".vmcx"), drivertest.XML(m))
	g := inspectOne(t, dir)
	c, err := folder.ReadConfiguration(g.Config)
	must(t, err)
	if len(g.Config) > 1<<20 || c.Machine != nil || len(c.Remarks) != 1 || len(g.Name) > 256 || keysOf(g) != "a_1.avhdx a_2.avhdx boot.vhdx" {
		t.Errorf("%d bytes of configuration, %d of name, disks %s, remarks %q", len(g.Config), len(g.Name), keysOf(g), c.Remarks)
	}
}
