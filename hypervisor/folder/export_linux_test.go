package folder_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
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
	want := map[string]vdisk.Image{"boot.vhdx": vdisktest.FromBytes(z), "a_1.avhdx": vdisktest.FromBytes(merged)}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		want["tree/"+strings.TrimPrefix(path, dir+"/")] = vdisktest.FromBytes(b)
		return err
	}))
	return want
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
		if !d.Carried {
			out = append(out, d.Key)
		}
	}
	return strings.Join(out, " ")
}

// filesOf are the files of the tree that are kept.
func filesOf(t *testing.T, g hypervisor.Guest) string {
	t.Helper()
	var out []string
	seen := false
	for _, d := range g.Disks {
		if d.Carried {
			st, err := os.Stat(d.Path)
			must(t, err)
			if d.Info.VirtualSize != st.Size() || d.Key != "tree/"+d.File || d.Path != filepath.Join(g.Source, d.File) {
				t.Errorf("%+v", d)
			}
			out = append(out, d.File)
		} else if seen {
			t.Errorf("disk %s stands behind files: its number depends on them", d.Key)
		}
		seen = d.Carried
	}
	return strings.Join(out, "\n")
}

func configOf(t *testing.T, g hypervisor.Guest) export.Configuration {
	t.Helper()
	c, err := export.ReadConfiguration(g.Config)
	must(t, err)
	return c
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
		want := `SCSI 0:2 gone.vhdx: the configuration names E:\elsewhere\gone.vhdx, which is not in the folder
SCSI 0:5: a disk of type PHYSICAL, which is not in a file (a pass-through disk)`
		if got := reasonsOf(g); got != want {
			t.Errorf("unprotected\n%s\nwant\n%s", got, want)
		}
		files := `Snapshots/11111111-7C4A-4070-BA32-773D43B28A68` + ext + `
Virtual Hard Disks/a.vhdx
Virtual Hard Disks/a_1.avhdx
Virtual Hard Disks/a_2.avhdx
Virtual Hard Disks/boot.vhdx
Virtual Machines/0AA394FA-7C4A-4070-BA32-773D43B28A68.vmcx
Virtual Machines/0AA394FA-7C4A-4070-BA32-773D43B28A68.vmgs`
		if ext == ".xml" {
			before, after, _ := strings.Cut(files, "Virtual Machines/0AA394FA-7C4A-4070-BA32-773D43B28A68.vmcx\n")
			files = before + after + "\n" + strings.TrimSuffix(after, ".vmgs") + ".xml"
		}
		if got := filesOf(t, g); got != files {
			t.Errorf("files\n%s\nwant\n%s", got, files)
		}
		if g.Disks[1].File != "Virtual Hard Disks/a_1.avhdx" || g.Disks[1].Carried {
			t.Errorf("%+v", g.Disks[1])
		}
		c := configOf(t, g)
		if c.Machine == nil || c.Machine.Processors != 4 || len(c.Machine.Disks) != 4 || len(c.Checkpoints) != 1 || len(c.SHA256) != 64 || len(c.Remarks) != 0 || !json.Valid(g.Config) {
			t.Errorf("%s", g.Config)
		}
		if len(c.Defects) != 1 || !strings.Contains(c.Defects[0].Reason, `disk SCSI 0:2: the configuration names E:\elsewhere`) {
			t.Errorf("defects %v", c.Defects)
		}
		// The id of a disk stays when a checkpoint gives it another file.
		next := filepath.Join(dir, "Virtual Hard Disks", "a_3.avhdx")
		_, err := drivertest.Checkpoint(next, filepath.Join(dir, "Virtual Hard Disks", "a_1.avhdx"), 3)
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
			f, err := folder.New(dir, folder.Options{GuestID: g.ID}).Freeze(t.Context(), g, hypervisor.CrashOnly)
			must(t, err)
			must(t, f.Release(t.Context(), false))
			if c := configOf(t, g); len(c.Remarks) == 0 && name != "gone" {
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
	c := configOf(t, g)
	if len(g.Config) > 1<<20 || c.Machine != nil || len(c.Remarks) != 1 || len(g.Name) > 256 || keysOf(g) != "a_1.avhdx a_2.avhdx boot.vhdx" {
		t.Errorf("%d bytes of configuration, %d of name, disks %s, remarks %q", len(g.Config), len(g.Name), keysOf(g), c.Remarks)
	}
}

// Without checkpoints the disks say all: their files are not kept a second time.
func TestExportWithoutCheckpoints(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"Virtual Machines/empty", "Virtual Hard Disks", "Snapshots"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	must(t, drivertest.VHDX(filepath.Join(dir, "Virtual Hard Disks", "boot.vhdx"), image(1<<20, 2)))
	put(t, filepath.Join(dir, "Virtual Machines", "M.vmcx"), drivertest.VMCX(vmconfig.Machine{ID: machineID, Disks: []vmconfig.Disk{{Controller: "IDE", Type: "VHD", Path: `C:\boot.vhdx`}}}))
	put(t, filepath.Join(dir, "Virtual Machines", "M.vmrs"), nil)
	put(t, filepath.Join(dir, "notes.txt"), []byte("x"))
	g := inspectOne(t, dir)
	if got := filesOf(t, g); got != "Virtual Machines/M.vmcx\nVirtual Machines/M.vmrs\nnotes.txt" || len(g.Unprotected) > 0 || g.Disks[0].File != "Virtual Hard Disks/boot.vhdx" {
		t.Errorf("files %q, unprotected %q, disks %+v", got, reasonsOf(g), g.Disks)
	}
	if c := configOf(t, g); strings.Join(c.Folders, " ") != "Snapshots Virtual Machines/empty" {
		t.Errorf("folders %q", c.Folders)
	}
	export.Drop(&g, "left out")
	if len(g.Disks) != 1 || g.Disks[0].File != "" || !strings.Contains(reasonsOf(g), "the exported tree: left out; ") {
		t.Errorf("disks %+v, unprotected %q", g.Disks, reasonsOf(g))
	}
	export.Drop(&g, "again")
	if len(g.Unprotected) != 1 {
		t.Errorf("a guest without a tree lost one: %q", reasonsOf(g))
	}
}

// An image that cannot be opened and that the machine does not run on costs a
// checkpoint, not the guest; one that it runs on, or may run on, fails it.
func TestExportWithABrokenImage(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"cut short": func(path string) error { return os.Truncate(path, 100) },
		"damaged":   func(path string) error { return overwrite(path, 0, make([]byte, 1<<20)) },
		"of another parent": func(path string) error {
			base := filepath.Join(filepath.Dir(path), "boot.vhdx")
			if _, err := drivertest.Checkpoint(path, base, 9); err != nil {
				return err
			}
			other := filepath.Join(filepath.Dir(path), "gone.vhdx")
			if err := os.Rename(base, other); err != nil {
				return err
			}
			defer os.Remove(other)
			return drivertest.VHDX(base, image(4<<20, 77))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			exported(t, dir, drivertest.VMCX, ".vmcx")
			branch := filepath.Join(dir, "Virtual Hard Disks", "a_2.avhdx")
			must(t, spoil(branch))
			g := inspectOne(t, dir)
			if keysOf(g) != "boot.vhdx a_1.avhdx" || !strings.Contains(filesOf(t, g), "a_2.avhdx") {
				t.Errorf("disks %s, files %s", keysOf(g), filesOf(t, g))
			}
			if !strings.Contains(reasonsOf(g), "a_2.avhdx: ") || !strings.Contains(reasonsOf(g), "the machine does not run on it") {
				t.Errorf("unprotected %s", reasonsOf(g))
			}
			c := configOf(t, g)
			text := fmt.Sprint(c.Defects)
			if len(c.Defects) != 3 || !strings.Contains(text, `checkpoint "before the update", disk SCSI 0:1`) || !strings.Contains(text, "Virtual Hard Disks/a_2.avhdx") {
				t.Errorf("defects %s", text)
			}
			f, err := folder.New(dir, options).Freeze(t.Context(), g, hypervisor.CrashOnly)
			must(t, err)
			must(t, f.Release(t.Context(), false))

			must(t, os.Remove(filepath.Join(dir, "Virtual Machines", strings.ToUpper(machineID)+".vmcx")))
			if _, err := folder.New(dir, options).Inspect(t.Context()); err == nil || !strings.Contains(err.Error(), "a_2.avhdx") {
				t.Errorf("the machine may run on it: %v", err)
			}
		})
	}
	dir := t.TempDir()
	exported(t, dir, drivertest.VMCX, ".vmcx")
	must(t, os.Truncate(filepath.Join(dir, "Virtual Hard Disks", "a_1.avhdx"), 100))
	if _, err := folder.New(dir, options).Inspect(t.Context()); !errors.Is(err, vdisk.ErrTruncated) || !strings.Contains(err.Error(), "SCSI 0:1") {
		t.Errorf("the machine runs on it: %v", err)
	}
}

// All files of an export in one folder: which configuration is a checkpoint's it says
// itself, or its disks do.
func TestExportInOneFolder(t *testing.T) {
	for kind, wantDisks := range map[string]string{"Snapshots": "c.avhdx", "": "c.avhdx", "Virtual Machines": "c.avhdx"} {
		dir := t.TempDir()
		must(t, drivertest.VHDX(filepath.Join(dir, "a.vhdx"), image(2<<20, 1)))
		for _, pair := range [][2]string{{"b.avhdx", "a.vhdx"}, {"c.avhdx", "b.avhdx"}} {
			_, err := drivertest.Checkpoint(filepath.Join(dir, pair[0]), filepath.Join(dir, pair[1]), 3)
			must(t, err)
		}
		on := func(file string) []vmconfig.Disk {
			return []vmconfig.Disk{{Controller: "SCSI", Type: "VHD", Path: `C:\x\` + file}}
		}
		put(t, filepath.Join(dir, "0.vmcx"), drivertest.VMCX(vmconfig.Machine{Name: "first", ID: machineID, Kind: kind, Disks: on("a.vhdx")}))
		put(t, filepath.Join(dir, "1.vmcx"), drivertest.VMCX(vmconfig.Machine{Name: "second", ID: machineID, Kind: kind, Disks: on("b.avhdx")}))
		put(t, filepath.Join(dir, "2.vmcx"), drivertest.VMCX(vmconfig.Machine{Name: "now", ID: machineID, Disks: on("c.avhdx")}))
		g := inspectOne(t, dir)
		c := configOf(t, g)
		if g.Name != "now" || keysOf(g) != wantDisks || c.File != "2.vmcx" || len(c.Checkpoints) != 2 || len(c.Remarks)+len(c.Defects)+len(g.Unprotected) > 0 {
			t.Errorf("kind %q: guest %s with %s, %s", kind, g.Name, keysOf(g), g.Config)
		}
	}
}

// A checkpoint whose image is not there is named.
func TestExportWithoutACheckpointsImage(t *testing.T) {
	dir := t.TempDir()
	exported(t, dir, drivertest.VMCX, ".vmcx")
	must(t, os.Remove(filepath.Join(dir, "Virtual Hard Disks", "a_2.avhdx")))
	g := inspectOne(t, dir)
	if got := reasonsOf(g); keysOf(g) != "boot.vhdx a_1.avhdx" || !strings.Contains(got, `checkpoint "before the update" SCSI 0:1: the configuration names C:\VMs\Virtual Hard Disks\a_2.avhdx, which is not in the folder`) {
		t.Errorf("disks %s, unprotected\n%s", keysOf(g), got)
	}
	if c := configOf(t, g); len(c.Defects) != 2 || c.Defects[0].File != "Snapshots/11111111-7C4A-4070-BA32-773D43B28A68.vmcx" {
		t.Errorf("defects %v", c.Defects)
	}
}

// inspectBefore is what was inspected before the file was there.
func inspectBefore(t *testing.T, d *folder.Driver, file string) hypervisor.Guest {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	must(t, os.Remove(file))
	g, err := d.Inspect(t.Context())
	must(t, err)
	put(t, file, b)
	return g[0]
}

// What is kept of the configuration is what was read of it.
func TestExportWhoseFilesChange(t *testing.T) {
	for _, name := range []string{strings.ToUpper(machineID) + ".vmcx", strings.ToUpper(machineID) + ".vmgs"} {
		dir := t.TempDir()
		exported(t, dir, drivertest.VMCX, ".vmcx")
		d, file := folder.New(dir, options), filepath.Join(dir, "Virtual Machines", name)
		g := inspectOne(t, dir)
		f, err := d.Freeze(t.Context(), g, hypervisor.CrashOnly)
		must(t, err)
		must(t, overwrite(file, 3, []byte{0x77}))
		if err := f.Changed(t.Context()); !errors.Is(err, hypervisor.ErrChanged) || !strings.Contains(err.Error(), "file Virtual Machines/"+name+" of the exported tree") {
			t.Errorf("%s changed while it was held: %v", name, err)
		}
		must(t, f.Release(t.Context(), false))
		f, err = d.Freeze(t.Context(), g, hypervisor.CrashOnly)
		if strings.HasSuffix(name, ".vmcx") != errors.Is(err, hypervisor.ErrChanged) {
			t.Errorf("%s is not what was inspected: %v", name, err)
		}
		if err == nil {
			must(t, f.Release(t.Context(), false))
		}
		more := put(t, filepath.Join(dir, "Snapshots", "more.vmrs"), []byte("x"))
		if _, err = d.Freeze(t.Context(), inspectBefore(t, d, more), hypervisor.CrashOnly); !errors.Is(err, hypervisor.ErrChanged) || !strings.Contains(err.Error(), "Snapshots/more.vmrs has come") {
			t.Errorf("a file has come: %v", err)
		}
		must(t, os.Remove(more))
		must(t, os.Remove(file))
		if _, err = d.Freeze(t.Context(), g, hypervisor.CrashOnly); err == nil || !strings.Contains(err.Error(), "the tree would not be whole") {
			t.Errorf("%s is gone: %v", name, err)
		}
	}
}

func TestExportOfTooManyFiles(t *testing.T) {
	dir := t.TempDir()
	exported(t, dir, drivertest.VMCX, ".vmcx")
	for n := range 800 {
		put(t, filepath.Join(dir, "Snapshots", fmt.Sprintf("%d.vmrs", n)), []byte{byte(n)})
	}
	g := inspectOne(t, dir)
	if len(g.Disks) != 2 || !strings.Contains(reasonsOf(g), "the exported tree: 807 files, at most 800 are carried along, and 1000 with the disks; ") {
		t.Errorf("%d disks, %s", len(g.Disks), reasonsOf(g))
	}
	for n := range 7 {
		must(t, os.Remove(filepath.Join(dir, "Snapshots", fmt.Sprintf("%d.vmrs", n))))
	}
	if g := inspectOne(t, dir); len(g.Disks) != 802 || strings.Contains(reasonsOf(g), "at most") {
		t.Errorf("%d disks, %s", len(g.Disks), reasonsOf(g))
	}
}

// However many configurations there are, little of them is held.
func TestExportOfManyConfigurations(t *testing.T) {
	dir := t.TempDir()
	exported(t, dir, drivertest.VMCX, ".vmcx")
	large := append(drivertest.XML(vmconfig.Machine{Name: "x", ID: machineID}), bytes.Repeat([]byte(" \x00"), 3<<20)...)
	for n := range 12 {
		put(t, filepath.Join(dir, "Virtual Machines", fmt.Sprintf("z%02d.xml", n)), large)
	}
	g := inspectOne(t, dir)
	c := configOf(t, g)
	text := strings.Join(c.Remarks, "\n")
	if c.Machine != nil || strings.Count(text, "more than 32 MiB of configurations") != 7 || strings.Count(text, "two machines in one folder") != 5 || strings.Count(filesOf(t, g), ".xml") != 12 {
		t.Errorf("remarks %s", text)
	}
}

// What cannot be written back everywhere, and links, are named and left out.
func TestExportWithOddNames(t *testing.T) {
	dir := t.TempDir()
	exported(t, dir, drivertest.VMCX, ".vmcx")
	put(t, filepath.Join(dir, "Snapshots", "a:b.vmrs"), []byte("x"))
	put(t, filepath.Join(dir, "Snapshots", "x.vmrs"), []byte("x"))
	put(t, filepath.Join(dir, "Snapshots", "X.vmrs"), []byte("x"))
	must(t, os.Symlink("x.vmrs", filepath.Join(dir, "Snapshots", "y.vmrs")))
	g := inspectOne(t, dir)
	c := configOf(t, g)
	if len(c.Defects) != 4 || strings.Count(filesOf(t, g), ".vmrs") != 1 {
		t.Errorf("defects %v, files %s", c.Defects, filesOf(t, g))
	}
	for _, name := range []string{"Snapshots/a:b.vmrs: ", "Snapshots/x.vmrs: ", "Snapshots/y.vmrs: a link"} {
		if !strings.Contains(reasonsOf(g), name) {
			t.Errorf("nothing is said of %s: %s", name, reasonsOf(g))
		}
	}
}
