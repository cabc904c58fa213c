package folder_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
	"github.com/millrace-backup/millrace/id"
)

// place writes a raw disk of its own content at each path below dir.
func place(t *testing.T, dir string, paths ...string) {
	t.Helper()
	for n, path := range paths {
		path = filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		put(t, path, image(64<<10, uint64(n)))
	}
}

// each makes sure that every disk has a key and an id of its own, and returns the
// disks by their files.
func each(t *testing.T, g hypervisor.Guest) map[string]hypervisor.Disk {
	t.Helper()
	keys, ids, out := map[string]bool{}, map[id.Disk]bool{}, map[string]hypervisor.Disk{}
	for _, d := range g.Disks {
		if keys[strings.ToLower(d.Key)] || ids[d.ID] {
			t.Errorf("a second disk %s, %s", d.Key, d.ID)
		}
		keys[strings.ToLower(d.Key)], ids[d.ID] = true, true
		if !d.Carried {
			out[strings.TrimPrefix(d.Path, g.Source+"/")] = d
		}
	}
	return out
}

// Disks of one name are as many disks, however their folders are called.
func TestExportWithDisksOfOneName(t *testing.T) {
	dir := t.TempDir()
	paths := []string{"Virtual Hard Disks/d.raw", "x/y/d.raw", "x~y/d.raw", "x/y~d.raw", "Virtual Hard Disks~d.raw", "X~Y/z.raw", "b/z.raw"}
	place(t, dir, paths...)
	g := inspectOne(t, dir)
	if disks := each(t, g); len(disks) != len(paths) {
		t.Errorf("%d disks of %d: %s", len(disks), len(paths), keysOf(g))
	}
	if again := inspectOne(t, dir); keysOf(again) != keysOf(g) {
		t.Errorf("%s, and then %s", keysOf(g), keysOf(again))
	}
}

// Two disks at one place of a configuration are two disks.
func TestExportWithTwoDisksAtOnePlace(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, "Virtual Hard Disks/a.raw", "Virtual Hard Disks/b.raw")
	at := func(name string) vmconfig.Disk {
		return vmconfig.Disk{Controller: "SCSI", Type: "VHD", Path: `C:\` + name}
	}
	put(t, filepath.Join(dir, "m.vmcx"), drivertest.VMCX(vmconfig.Machine{ID: machineID, Disks: []vmconfig.Disk{at("a.raw"), at("b.raw")}}))
	g := inspectOne(t, dir)
	if disks := each(t, g); len(disks) != 2 || !strings.Contains(string(g.Config), "two disks at SCSI 0:0") {
		t.Errorf("disks %s\n%s", keysOf(g), g.Config)
	}
}

// A disk whose file cannot have its name everywhere, or lies deeper than any tree, is
// a disk of the guest all the same.
func TestExportWithDisksOfOddNames(t *testing.T) {
	deep := strings.Repeat("d/", 20) + "deep.raw"
	odd := []string{"Virtual Hard Disks/a:b.raw", "con.vhdx.raw", deep, "Virtual Hard Disks/OK.raw", "end .raw /d.raw"}
	dir := t.TempDir()
	place(t, dir, append(odd, "Virtual Hard Disks/ok.raw")...)
	g := inspectOne(t, dir)
	disks := each(t, g)
	for _, path := range odd {
		d, is := disks[path]
		if !is || d.File != "" && path != "Virtual Hard Disks/OK.raw" {
			t.Errorf("%s: %+v", path, d)
		}
		if path != "Virtual Hard Disks/OK.raw" && !strings.Contains(reasonsOf(g), "the file "+path+": ") {
			t.Errorf("nothing is said of %s", path)
		}
	}
	if c := configOf(t, g); len(disks) != 6 || len(c.Defects) != 5 {
		t.Errorf("%d disks, defects %v", len(disks), c.Defects)
	}

	// Of a checkpoint too: it is kept in no other way.
	dir = t.TempDir()
	exported(t, dir, drivertest.VMCX, ".vmcx")
	hard := filepath.Join(dir, "Virtual Hard Disks")
	must(t, os.Rename(filepath.Join(hard, "a_2.avhdx"), filepath.Join(hard, "a|2.avhdx")))
	put(t, filepath.Join(dir, "Snapshots", "11111111-7C4A-4070-BA32-773D43B28A68.vmcx"), drivertest.VMCX(vmconfig.Machine{
		Name: "before", Kind: "Snapshots", Disks: []vmconfig.Disk{{Controller: "SCSI", Location: 1, Type: "VHD", Path: `C:\a|2.avhdx`}},
	}))
	g = inspectOne(t, dir)
	if keysOf(g) != "boot.vhdx a_1.avhdx a|2.avhdx" || !strings.Contains(string(g.Config), `of checkpoint \"before\", backed up as a disk`) {
		t.Errorf("disks %s\n%s", keysOf(g), g.Config)
	}
}

// A path that cannot be written down stops the guest, and says so.
func TestDisksWhoseNamesAreNotUTF8(t *testing.T) {
	for _, other := range []string{"Virtual Hard Disks/a.raw", "a.raw"} {
		dir := t.TempDir()
		place(t, dir, other, "b\xff.raw")
		if _, err := folder.New(dir, options).Inspect(t.Context()); err == nil || !strings.Contains(err.Error(), "not UTF-8") {
			t.Errorf("beside %s: %v", other, err)
		}
	}
}

// What a broken image is laid on nobody can tell: it may be a disk without checkpoints, so
// the files of all are kept.
func TestExportWithABrokenImageBesideAll(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, "Virtual Hard Disks/boot.raw")
	put(t, filepath.Join(dir, "m.vmcx"), drivertest.VMCX(vmconfig.Machine{ID: machineID, Disks: []vmconfig.Disk{{Controller: "IDE", Type: "VHD", Path: `C:\boot.raw`}}}))
	if got := filesOf(t, inspectOne(t, dir)); got != "m.vmcx" {
		t.Errorf("without checkpoints the files are\n%s", got)
	}
	put(t, filepath.Join(dir, "left.avhdx"), []byte("half an image"))
	if got := filesOf(t, inspectOne(t, dir)); got != "Virtual Hard Disks/boot.raw\nleft.avhdx\nm.vmcx" {
		t.Errorf("files\n%s", got)
	}
}
