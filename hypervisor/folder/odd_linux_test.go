package folder_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
)

// machine writes the configuration of the machine, or of a checkpoint, with SCSI disks of
// these files.
func machine(t *testing.T, path, kind, name string, files ...string) {
	t.Helper()
	m := vmconfig.Machine{Name: name, Kind: kind, ID: machineID}
	for n, file := range files {
		m.Disks = append(m.Disks, vmconfig.Disk{Controller: "SCSI", Location: n, Type: "VHD", Path: `C:\else\` + file})
	}
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	put(t, path, drivertest.VMCX(m))
}

func TestExportWithOddConfigurations(t *testing.T) {
	for _, c := range []struct {
		what  string
		make  func(t *testing.T, dir string)
		disks string
		says  string // in the reasons, or in the configuration
		files string // that are carried, too
	}{
		{"one file at two places", func(t *testing.T, dir string) {
			place(t, dir, "a.raw")
			machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "a.raw", "A.RAW")
		}, "a.raw", "SCSI 0:1 A.RAW: the same file as at another place", ""},
		{"one name in two folders, and the folder is a third", func(t *testing.T, dir string) {
			place(t, dir, "x/a.raw", "y/a.raw")
			machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "a.raw")
		}, "x~a.raw y~a.raw", `several files have the name of C:\else\a.raw`, ""},
		{"one name in two folders, of which one is the folder", func(t *testing.T, dir string) {
			place(t, dir, "x/a.raw", "Else/a.raw")
			machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "a.raw")
		}, "Else~a.raw x~a.raw", "x/a.raw: not named by the configuration", ""},
		{"a broken image at a path that no tree has", func(t *testing.T, dir string) {
			place(t, dir, "a.raw")
			put(t, filepath.Join(dir, "b|c.vhdx"), []byte("no image"))
			machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "a.raw")
		}, "a.raw", "does not run on it, nor are its bytes kept", ""},
		{"checkpoints whose images are not laid on each other", func(t *testing.T, dir string) {
			place(t, dir, "a.raw", "b.raw")
			machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "a.raw")
			machine(t, filepath.Join(dir, "Snapshots", "s.vmcx"), "", "before", "b.raw")
		}, "a.raw", `"before"`, "a.raw b.raw"},
		{"a checkpoint by its kind alone, of whose disks nothing is there", func(t *testing.T, dir string) {
			place(t, dir, "a.raw")
			machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "a.raw")
			machine(t, filepath.Join(dir, "s.vmcx"), "Snapshots", "before", "gone.raw")
		}, "a.raw", `checkpoint "before" SCSI 0:0`, "a.raw"},
		{"more checkpoints than are listed", func(t *testing.T, dir string) {
			place(t, dir, "a.raw")
			machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "a.raw")
			for n := range 201 {
				put(t, filepath.Join(dir, fmt.Sprintf("s%d.vmcx", n)), drivertest.XML(vmconfig.Machine{Name: "x", Kind: "Snapshots"}))
			}
		}, "a.raw", "more than 200 checkpoints", "a.raw s0.vmcx s200.vmcx"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			c.make(t, dir)
			g := inspectOne(t, dir)
			each(t, g)
			if g.Name != "box" || keysOf(g) != c.disks {
				t.Errorf("%s has disks %s", g.Name, keysOf(g))
			}
			said := reasonsOf(g) + strings.ReplaceAll(string(g.Config), `\"`, `"`)
			if !strings.Contains(said, c.says) {
				t.Errorf("nothing is said of it: %s", said)
			}
			for _, file := range strings.Fields(c.files) {
				if !strings.Contains("\n"+filesOf(t, g)+"\n", "\n"+file+"\n") {
					t.Errorf("%s is not among the files\n%s", file, filesOf(t, g))
				}
			}
		})
	}
}

// A disk of a checkpoint that is in no file is nothing that the tree lacks.
func TestExportWithAPassThroughDiskInACheckpoint(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, "a.raw")
	machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "a.raw")
	put(t, filepath.Join(dir, "s.vmcx"), drivertest.VMCX(vmconfig.Machine{Kind: "Snapshots", Disks: []vmconfig.Disk{{Controller: "SCSI", Type: "PHYSICAL"}}}))
	g := inspectOne(t, dir)
	if c := configOf(t, g); len(c.Checkpoints) != 1 || len(c.Defects)+len(c.Remarks)+len(g.Unprotected) > 0 {
		t.Errorf("%s\n%s", reasonsOf(g), g.Config)
	}
}

// However much lies in a folder that is no disk, the list of it fits into a point, and
// what is said of disks is in it.
func TestFoldersFullOfOtherThings(t *testing.T) {
	for what, files := range map[string]func(n int) string{
		"a folder of images":    func(n int) string { return fmt.Sprintf("a%05d.txt", n) },
		"an export":             func(n int) string { return fmt.Sprintf("Snapshots/a|%05d.vmrs", n) },
		"an export, long names": func(n int) string { return "Snapshots/" + strings.Repeat("long/", 200) + fmt.Sprintf("%05d.vmrs", n) },
	} {
		dir := t.TempDir()
		place(t, dir, "d.raw")
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, files(0))), 0o700))
		for n := range 1500 {
			put(t, filepath.Join(dir, files(n)), nil)
		}
		want := "web.vmdk: its name promises vmdk"
		if strings.HasPrefix(what, "an export") {
			machine(t, filepath.Join(dir, "m.vmcx"), "", "box", "gone.raw", "d.raw")
			want = "SCSI 0:0 gone.raw: the configuration names"
		} else {
			put(t, filepath.Join(dir, "web.vmdk"), []byte("nothing"))
		}
		g := inspectOne(t, dir)
		size := len(reasonsOf(g))
		if n := len(g.Unprotected); n < 400 || n > 1001 || size > 1<<20+10_000 || !strings.HasSuffix(g.Unprotected[n-1].Key, " more") {
			t.Errorf("%s: %d entries of %d bytes, the last %+v", what, n, size, g.Unprotected[n-1])
		}
		if !strings.HasPrefix(reasonsOf(g), want) {
			t.Errorf("%s: the first is %.200s", what, reasonsOf(g))
		}
	}
}
