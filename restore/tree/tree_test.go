package tree_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/catalog/layers"
	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/restore/tree"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// point is a point in a new vault whose disks are zeros, all of them carried but those
// whose path begins with "*". What they hold is the business of other tests.
func point(t testing.TB, size int64, paths ...string) (*vault.Vault, events.PointCommitted) {
	t.Helper()
	st, err := dir.Create(filepath.Join(t.TempDir(), "vault"))
	must(t, err)
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	must(t, err)
	scratch, err := spill.Create(filepath.Join(t.TempDir(), "scratch"))
	must(t, err)
	t.Cleanup(func() { _ = scratch.Close() })
	var disks []layers.Disk
	for range paths {
		disks = append(disks, layers.Disk{Size: size, Found: func(context.Context) iter.Seq2[table.MapPiece, error] {
			return func(func(table.MapPiece, error) bool) {}
		}})
	}
	written, err := layers.Write(t.Context(), v, id.NewJob(), v.Config.DefaultDomain, scratch, disks)
	must(t, err)
	p := events.PointCommitted{Point: id.Point{1}}
	for n, path := range paths {
		path, isDisk := strings.CutPrefix(path, "*")
		l := written.Disks[n]
		d := events.PointDisk{Disk: id.Disk{byte(n + 1)}, Key: "tree/" + path, File: path, Carried: !isDisk, Size: size, Format: "raw", Extents: []events.TableRef{l.Table}, Chunks: []events.TableRef{written.Chunks}, Root: l.Table.Root}
		if isDisk {
			d.Format, d.Variant, d.BlockSize, d.Sector, d.PhysicalSector = "vhdx", "dynamic", 2<<20, 512, 4096
		}
		p.Disks = append(p.Disks, d)
	}
	return v, p
}

func options() tree.Options {
	return tree.Options{Like: func(d events.PointDisk) (func(vdisk.File, events.PointDisk) (restore.Image, error), error) {
		return func(f vdisk.File, d events.PointDisk) (restore.Image, error) {
			return create.NewWriter(f, d.Size, create.Options{BlockSize: d.BlockSize})
		}, nil
	}}
}

func filesIn(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		out = append(out, filepath.ToSlash(rel))
		return err
	}))
	return out
}

func TestWrite(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 4096, 4<<20 + 1} {
		v, p := point(t, size, "Virtual Machines/m.vmcx", "Virtual Hard Disks/b.avhdx", "Virtual Machines/m.vmrs")
		p.Config = []byte(`{"form":"hyperv-export","folders":["Snapshots/none"],"defects":[{"file":"x","reason":"y"}]}`)
		plan, err := tree.NewPlan(p)
		must(t, err)
		if last := plan.Files[2].File; last != "Virtual Machines/m.vmcx" || len(plan.Defects) != 1 || plan.Size != 3*size {
			t.Errorf("last is %s, defects %v, %d bytes", last, plan.Defects, plan.Size)
		}
		to := filepath.Join(t.TempDir(), "new", "back")
		done, err := plan.Write(t.Context(), v, to, options())
		must(t, err)
		want := []string{"Snapshots", "Snapshots/none", "Virtual Hard Disks", "Virtual Hard Disks/b.avhdx", "Virtual Machines", "Virtual Machines/m.vmcx", "Virtual Machines/m.vmrs"}
		if got := filesIn(t, to); !slices.Equal(got, want) || len(done) != 3 {
			t.Errorf("files %q", got)
		}
		for _, f := range done {
			st, err := os.Stat(f.Path)
			must(t, err)
			if st.Size() != size {
				t.Errorf("%s has %d bytes, want %d", f.Path, st.Size(), size)
			}
		}
	}
}

// A disk whose file was not kept is written as an image, where that was.
func TestAnImageMadeAnew(t *testing.T) {
	v, p := point(t, 3<<20, "*Virtual Hard Disks/d.vhdx", "Virtual Machines/m.vmcx")
	plan, err := tree.NewPlan(p)
	must(t, err)
	to := t.TempDir()
	_, err = plan.Write(t.Context(), v, to, options())
	must(t, err)
	m, err := open.Path(filepath.Join(to, "Virtual Hard Disks", "d.vhdx"), open.Options{})
	must(t, err)
	defer m.Close()
	if m.Size() != 3<<20 || m.Info().BlockSize != 2<<20 {
		t.Errorf("%+v", m.Info())
	}
	o := options()
	o.Like = func(events.PointDisk) (func(vdisk.File, events.PointDisk) (restore.Image, error), error) {
		return nil, fmt.Errorf("%w: vmdk", vdisk.ErrUnsupported)
	}
	if _, err = plan.Write(t.Context(), v, t.TempDir(), o); !errors.Is(err, restore.ErrForm) {
		t.Errorf("a format that nobody writes: %v", err)
	}
	// Where the file was kept it is the file, and not the disk.
	both := p
	carried := p.Disks[0]
	carried.Carried = true
	both.Disks = append(slices.Clone(p.Disks), carried)
	plan, err = tree.NewPlan(both)
	must(t, err)
	if len(plan.Files) != 2 || !plan.Files[0].Carried {
		t.Errorf("%+v", plan.Files)
	}
}

func TestWhatIsThereStays(t *testing.T) {
	v, p := point(t, 10, "a/x", "b")
	plan, err := tree.NewPlan(p)
	must(t, err)
	to := t.TempDir()
	must(t, os.WriteFile(filepath.Join(to, "mine"), []byte("mine"), 0o600))
	must(t, os.WriteFile(filepath.Join(to, "b"), []byte("mine"), 0o600))
	if _, err = plan.Write(t.Context(), v, to, options()); !errors.Is(err, tree.ErrOccupied) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("a folder that is not empty: %v", err)
	}
	if got := filesIn(t, to); !slices.Equal(got, []string{"b", "mine"}) {
		t.Errorf("after a refusal: %q", got)
	}
	o := options()
	o.Force = true
	_, err = plan.Write(t.Context(), v, to, o)
	must(t, err)
	if b, err := os.ReadFile(filepath.Join(to, "b")); err != nil || len(b) != 10 {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "mine")); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err = plan.Write(t.Context(), v, file, o); !errors.Is(err, restore.ErrNotFile) {
		t.Errorf("a file in the place of the folder: %v", err)
	}
}

// Links in the folder lead nowhere outside, and are never replaced.
func TestLinksInTheFolder(t *testing.T) {
	v, p := point(t, 10, "a/x", "b")
	plan, err := tree.NewPlan(p)
	must(t, err)
	o := options()
	o.Force = true
	outside := t.TempDir()
	for name, link := range map[string]string{"a": outside, "b": filepath.Join(outside, "victim")} {
		to := t.TempDir()
		if err := os.Symlink(link, filepath.Join(to, name)); err != nil {
			t.Skipf("needs symbolic links: %v", err)
		}
		if _, err := plan.Write(t.Context(), v, to, o); err == nil {
			t.Errorf("a link at %s was followed", name)
		}
		if got := filesIn(t, outside); len(got) > 0 {
			t.Errorf("outside there is %q", got)
		}
	}
	to := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(to, "b"), 0o700))
	if _, err := plan.Write(t.Context(), v, to, o); !errors.Is(err, restore.ErrNotFile) {
		t.Errorf("a folder where a file goes: %v", err)
	}
	if got := filesIn(t, to); !slices.Equal(got, []string{"b"}) {
		t.Errorf("after a refusal: %q", got)
	}
}

// A link to another folder inside is followed no more than one to the outside: the files
// there are others'.
func TestLinksFromFolderToFolder(t *testing.T) {
	v, p := point(t, 10, "a/b/x", "c/x", "z")
	plan, err := tree.NewPlan(p)
	must(t, err)
	o := options()
	o.Force = true
	for link, target := range map[string]string{"a": "mine", "a/b": "../mine", "c": "a"} {
		to := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(to, "mine", "b"), 0o700))
		must(t, os.WriteFile(filepath.Join(to, "mine", "x"), []byte("mine"), 0o600))
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(to, link)), 0o700))
		if err := os.Symlink(target, filepath.Join(to, link)); err != nil {
			t.Skipf("needs symbolic links: %v", err)
		}
		before := filesIn(t, to)
		if _, err := plan.Write(t.Context(), v, to, o); !errors.Is(err, restore.ErrNotFile) {
			t.Errorf("%s was a link to %s: %v", link, target, err)
		}
		if got := filesIn(t, to); !slices.Equal(got, before) && link != "c" { // which leads to what is made first
			t.Errorf("%s was a link to %s: %q are there", link, target, got)
		}
		if b, err := os.ReadFile(filepath.Join(to, "mine", "x")); err != nil || string(b) != "mine" {
			t.Errorf("%s was a link to %s: %q, %v", link, target, b, err)
		}
	}
}

// What a restore that was killed left is removed by the next one, in every folder, and
// nothing else.
func TestPartsOfTheKilled(t *testing.T) {
	v, p := point(t, 10, "a/x", "m.vmcx")
	plan, err := tree.NewPlan(p)
	must(t, err)
	to := t.TempDir()
	must(t, os.Mkdir(filepath.Join(to, "a"), 0o700))
	for _, name := range []string{"a/.x.0123456789abcdef.part", ".m.vmcx.0123456789abcdef.part", ".x.0123456789abcdef.part", "a/.y.0123456789abcdef.part", "a/.x.part"} {
		must(t, os.WriteFile(filepath.Join(to, name), []byte("half"), 0o600))
	}
	if _, err := plan.Write(t.Context(), v, to, options()); !errors.Is(err, tree.ErrOccupied) {
		t.Errorf("a folder with a part of a restore in it: %v", err)
	}
	o := options()
	o.Force = true
	_, err = plan.Write(t.Context(), v, to, o)
	must(t, err)
	if got := filesIn(t, to); !slices.Equal(got, []string{".x.0123456789abcdef.part", "a", "a/.x.part", "a/.y.0123456789abcdef.part", "a/x", "m.vmcx"}) {
		t.Errorf("there is %q", got)
	}
}

// Configurations come last, of either kind and whatever folder they are in.
func TestConfigurationsComeLast(t *testing.T) {
	_, p := point(t, 1, "A.VMCX", "Snapshots/b.xml", "Snapshots/b.vsv", "Virtual Machines/c.XML", "Virtual Hard Disks/d.avhd", "xml", "z.vmcx.bin")
	plan, err := tree.NewPlan(p)
	must(t, err)
	var got []string
	for _, d := range plan.Files {
		got = append(got, d.File)
	}
	if want := []string{"Snapshots/b.vsv", "Virtual Hard Disks/d.avhd", "xml", "z.vmcx.bin", "A.VMCX", "Snapshots/b.xml", "Virtual Machines/c.XML"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestHostilePoints(t *testing.T) {
	of := func(paths ...string) events.PointCommitted {
		var p events.PointCommitted
		for _, path := range paths {
			p.Disks = append(p.Disks, events.PointDisk{File: path, Carried: true})
		}
		return p
	}
	many := make([]string, 20_001)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for _, p := range []events.PointCommitted{
		of(""), of("/etc/passwd"), of("../x"), of("a/../../x"), of(`..\x`), of(`C:\x`), of("C:x"), of("a", "A"), of("a/x", "A/y"), of("a", "a/b"), of("nul"), of("a/COM1.txt"),
		of("a\x00b"), of("x."), of(strings.Repeat("a/", 300) + "x"), of(many...),
		{Disks: []events.PointDisk{{File: "../d.vhdx"}}},
		{Disks: []events.PointDisk{{File: "d.vhdx"}, {File: "D.vhdx", Carried: true}}},
		{Disks: []events.PointDisk{{File: "d", Carried: true}}, Config: []byte(`{"form":"hyperv-export","folders":["../up"]}`)},
		{Disks: []events.PointDisk{{File: "d", Carried: true}}, Config: []byte(`{"form":"hyperv-export","folders":["D"]}`)},
	} {
		if _, err := tree.NewPlan(p); !errors.Is(err, export.ErrPath) {
			t.Errorf("%d disks, the first at %.40q: %v", len(p.Disks), p.Disks[0].File, err)
		}
	}
	for _, p := range []events.PointCommitted{{}, {Disks: []events.PointDisk{{Key: "a"}}}, {Config: []byte(`{"form":"hyperv-export","folders":["a"]}`)}} {
		if _, err := tree.NewPlan(p); !errors.Is(err, tree.ErrNone) {
			t.Errorf("no tree: %v", err)
		}
	}
}

// A restore that fails leaves files that are whole, and no temp.
func TestFailing(t *testing.T) {
	v, p := point(t, 10, "a/x", "a/y", "m.vmcx")
	p.Disks[1].Extents = []events.TableRef{{Job: id.NewJob(), Name: id.Object{9}}}
	plan, err := tree.NewPlan(p)
	must(t, err)
	to := t.TempDir()
	if _, err := plan.Write(t.Context(), v, to, options()); !errors.Is(err, vault.ErrDamaged) || !strings.Contains(err.Error(), "a/y") {
		t.Errorf("got %v", err)
	}
	if got := filesIn(t, to); !slices.Equal(got, []string{"a", "a/x"}) {
		t.Errorf("left %q", got)
	}
	v, p = point(t, 40<<20, "a", "b", "c", "m.vmcx")
	plan, err = tree.NewPlan(p)
	must(t, err)
	for stop := int64(0); stop < 160<<20; stop += 16 << 20 {
		ctx, cancel := context.WithCancel(t.Context())
		o := options()
		o.Progress = func(now restore.Progress) {
			if now.Size != 160<<20 {
				t.Errorf("%+v of 160 MiB", now)
			}
			if now.Done >= stop {
				cancel()
			}
		}
		to = t.TempDir()
		done, err := plan.Write(ctx, v, to, o)
		// What is cancelled while its last bytes are under way may still be done.
		whole := err == nil && stop > 120<<20
		if !whole && !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled at %d: %v", stop, err)
		}
		got := filesIn(t, to)
		if len(got) != len(done) || slices.Contains(got, "m.vmcx") != whole {
			t.Errorf("cancelled at %d: %q are there, %d said to be", stop, got, len(done))
		}
		for _, name := range got {
			if st, err := os.Stat(filepath.Join(to, name)); err != nil || st.Size() != 40<<20 {
				t.Errorf("cancelled at %d: %s is not whole: %v, %v", stop, name, st, err)
			}
		}
		cancel()
	}
}
