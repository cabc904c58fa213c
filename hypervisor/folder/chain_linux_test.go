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
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// chain makes a folder with a checkpoint on an image in a folder below, which is
// laid on a base that only its name leads to. It returns what the guest sees.
func chain(t testing.TB, dir string) []byte {
	t.Helper()
	base, beside := filepath.Join(dir, "base.vhdx"), filepath.Join(dir, "one.avhdx")
	must(t, drivertest.VHDX(base, image(4<<20, 3)))
	_, err := drivertest.Checkpoint(beside, base, 1)
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "old"), 0o700))
	must(t, os.Rename(base, filepath.Join(dir, "old", "base.vhdx")))
	must(t, os.Symlink(filepath.Join("old", "base.vhdx"), base)) // Checkpoint follows it, too
	merged, err := drivertest.Checkpoint(filepath.Join(dir, "two.avhdx"), beside, 2)
	must(t, err)
	return merged
}

func TestDriverOnAChain(t *testing.T) {
	// A write to any file of the chain counts, the base's creator field say.
	for _, hit := range []string{"two.avhdx", "one.avhdx", "old/base.vhdx"} {
		t.Run(hit, func(t *testing.T) {
			drivertest.Run(t, func(tb testing.TB) drivertest.Subject {
				dir := tb.TempDir()
				merged := chain(tb, dir)
				return drivertest.Subject{
					Driver: folder.New(dir, options),
					Again:  func() drivertest.Driver { return folder.New(dir, options) },
					Want:   map[string]vdisk.Image{"two.avhdx": vdisktest.FromBytes(merged)},
					Write: func(_ string, _ int64, b []byte) error {
						return overwrite(filepath.Join(dir, hit), 400, b)
					},
				}
			})
		})
	}
}

// Another file in a parent's place is a change, though the old one is held open.
func TestParentIsReplaced(t *testing.T) {
	for _, how := range []string{"file", "link", "record"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			chain(t, dir)
			d := folder.New(dir, options)
			g, err := d.Inspect(t.Context())
			must(t, err)
			f := freeze(t, d, g[0], hypervisor.AppPreferred)
			must(t, f.Changed(t.Context()))
			base := filepath.Join(dir, "old", "base.vhdx")
			b, err := os.ReadFile(base)
			must(t, err)
			put(t, filepath.Join(dir, "copy"), b)
			switch how {
			case "file":
				must(t, os.Rename(filepath.Join(dir, "copy"), base))
			default:
				must(t, os.Remove(filepath.Join(dir, "base.vhdx")))
				must(t, os.Symlink("copy", filepath.Join(dir, "base.vhdx")))
			}
			if how == "record" {
				if again, err := folder.New(dir, options).Resume(t.Context(), g[0], f.Record()); !errors.Is(err, hypervisor.ErrChanged) {
					t.Errorf("resumed with another parent: %+v, %v", again, err)
				}
				return
			}
			if err := f.Changed(t.Context()); !errors.Is(err, hypervisor.ErrChanged) || !strings.Contains(err.Error(), "base.vhdx") {
				t.Errorf("with another parent: %v", err)
			}
		})
	}
}

func TestBranches(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.vhdx")
	must(t, drivertest.VHDX(base, image(4<<20, 3)))
	for i, name := range []string{"a.avhdx", "b.avhdx"} {
		_, err := drivertest.Checkpoint(filepath.Join(dir, name), base, byte(i+1))
		must(t, err)
	}
	d := folder.New(dir, options)
	g, err := d.Inspect(t.Context())
	must(t, err)
	if len(g[0].Disks) != 2 || len(g[0].Unprotected) != 0 || g[0].Disks[0].Info.Variant != "differencing" {
		t.Errorf("%+v", g[0])
	}
	f := freeze(t, d, g[0], hypervisor.AppPreferred) // the base is held twice
	must(t, f.Changed(t.Context()))

	must(t, os.Remove(base))
	if _, err := d.Inspect(t.Context()); !errors.Is(err, open.ErrNoParent) || !strings.Contains(err.Error(), "base.vhdx") || !strings.Contains(err.Error(), dir) {
		t.Errorf("without the base: %v", err)
	}
	if _, err := folder.New(filepath.Join(dir, "a.avhdx"), options).Inspect(t.Context()); !errors.Is(err, open.ErrParentNeeded) {
		t.Errorf("the child alone: %v", err)
	}
	// Parents come from the folder only.
	put(t, filepath.Join(filepath.Dir(dir), "base.vhdx"), nil)
	if _, err := d.Inspect(t.Context()); !errors.Is(err, open.ErrNoParent) {
		t.Errorf("with a file outside: %v", err)
	}
}

// Snapshots inside an image are not backed up, and that is said.
func TestSnapshotsInsideAreUnprotected(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "vm.qcow2")
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", file, "1M")
	vdisktest.Tool(t, "qemu-img", "snapshot", "-c", "before the update", file)
	vdisktest.Tool(t, "qemu-img", "snapshot", "-c", "after", file)
	for _, source := range []string{dir, file} {
		d := folder.New(source, options)
		g, err := d.Inspect(t.Context())
		must(t, err)
		if len(g[0].Disks) != 1 || len(g[0].Unprotected) != 1 || g[0].Unprotected[0].Key != "vm.qcow2 (snapshots)" || !strings.HasPrefix(g[0].Unprotected[0].Reason, "2 snapshots") {
			t.Errorf("%s: %+v", source, g[0])
		}
		f := freeze(t, d, g[0], hypervisor.AppPreferred)
		must(t, f.Changed(t.Context()))
	}
	// In an export too, unless the whole file is kept.
	must(t, os.Mkdir(filepath.Join(dir, "Virtual Hard Disks"), 0o700))
	if g := inspectOne(t, dir); len(g.Disks) != 1 || !strings.HasPrefix(reasonsOf(g), "vm.qcow2 (snapshots): 2 snapshots") {
		t.Errorf("in an export: %s", reasonsOf(g))
	}
	put(t, filepath.Join(dir, "broken.vhdx"), []byte("nothing"))
	put(t, filepath.Join(dir, "m.vmcx"), drivertest.VMCX(vmconfig.Machine{ID: machineID, Disks: []vmconfig.Disk{{Controller: "SCSI", Type: "VHD", Path: "vm.qcow2"}}}))
	if g := inspectOne(t, dir); strings.Contains(reasonsOf(g), "snapshots") || !strings.Contains(filesOf(t, g), "vm.qcow2") {
		t.Errorf("kept as a file: %s", reasonsOf(g))
	}
}
