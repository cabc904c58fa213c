package folder_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// A machine is what the last of its images shows; without its configuration every end of
// a branch is a disk, and each shows what it should.
func TestExportWithBranches(t *testing.T) {
	for year, kind := range map[int]struct{ ext, config string }{2012: {".avhd", ".xml"}, 2019: {".avhdx", ".vmcx"}} {
		dir := t.TempDir()
		seen, err := drivertest.Branched(dir, year)
		must(t, err)
		d := folder.New(dir, options)
		check := func(want string) {
			t.Helper()
			g := inspectOne(t, dir)
			if got := strings.ReplaceAll(keysOf(g), kind.ext, ""); got != want || len(g.Unprotected) > 0 || strings.Count(filesOf(t, g), "\n") < 26 {
				t.Errorf("%d: disks %s, want %s; not in it: %s", year, got, want, reasonsOf(g))
			}
			f, err := d.Freeze(t.Context(), g, hypervisor.CrashOnly)
			must(t, err)
			defer func() { must(t, f.Release(t.Context(), false)) }()
			for _, disk := range g.Disks {
				if disk.Carried {
					continue
				}
				m, err := d.Open(t.Context(), disk)
				must(t, err)
				vdisktest.Run(t, m, vdisktest.FromBytes(seen[strings.TrimSuffix(disk.Key, kind.ext)]))
				must(t, m.Close())
			}
			if c := configOf(t, g); len(c.Checkpoints) != 6 || len(c.Defects)+len(c.Remarks) > 0 {
				t.Errorf("%d: %s", year, g.Config)
			}
		}
		check("c3")
		machine, err := filepath.Glob(filepath.Join(dir, "Virtual Machines", "*"+kind.config))
		must(t, err)
		must(t, os.Remove(machine[0]))
		check("b3 c3")
	}
}

// The folder that machines were exported into is none of them, and that is said.
func TestFolderOfExports(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"box/Virtual Machines", "mail/virtual hard disks", "other"} {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o700))
	}
	_, err := folder.New(dir, options).Inspect(t.Context())
	if !errors.Is(err, hypervisor.ErrNoDisks) || !strings.Contains(err.Error(), "name each of them: box, mail") {
		t.Errorf("%v", err)
	}
}
