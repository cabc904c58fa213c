package conductor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// objects lists the files of a folder of the vault.
func (b *bed) objects(t *testing.T, folder string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(b.root, folder), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("%s: %d objects, %v", folder, len(out), err)
	}
	return out
}

// backup does a job that must end well and gives back what is in the point.
func (b *bed) backup(t *testing.T, change func(*Options)) (Summary, *catalog.Point) {
	t.Helper()
	o := b.options(t)
	if change != nil {
		change(&o)
	}
	s, err := Backup(t.Context(), o)
	if err != nil || s.Outcome != "done" {
		t.Fatalf("outcome %q, %v, %+v", s.Outcome, err, s.Guests)
	}
	sum(t, s)
	return s, b.check(t).Points[s.Points()[0]]
}

// spoilAPack loses a pack of the vault, in one way or another.
func (b *bed) spoilAPack(t *testing.T, how string) {
	t.Helper()
	b.spoil(t, how, b.objects(t, "packs")[0])
}

func (b *bed) spoil(t *testing.T, how, path string) {
	t.Helper()
	var err error
	switch how {
	case "gone":
		err = os.Remove(path)
	case "short":
		var at os.FileInfo
		if at, err = os.Stat(path); err == nil {
			err = errors.Join(os.Chmod(path, 0o600), os.Truncate(path, at.Size()-1))
		}
	case "withdrawn", "retired":
		var job id.Job
		var pack id.Object
		err = errors.Join(job.UnmarshalText([]byte(filepath.Base(filepath.Dir(path)))), pack.UnmarshalText([]byte(filepath.Base(path))))
		var fact events.Fact = events.ChunkWithdrawn{Job: job, Pack: pack, Domain: b.vault.Config.DefaultDomain, Chunks: []id.Chunk{{1}}}
		if how == "retired" {
			fact = events.PacksRetired{Packs: []events.PackName{{Job: job, Pack: pack}}}
		}
		if err == nil {
			_, err = b.ledger(t).Append(t.Context(), id.NewJob(), []events.Fact{fact}, nil, nil)
		}
		err = errors.Join(err, os.Remove(path)) // so that whoever needs it cannot restore
	}
	if err != nil {
		t.Fatal(err)
	}
}

// However a pack is lost, the next point is whole without it, by itself and in
// each kind of scan; verify says which point is damaged; and afterwards all is
// as it was: nothing is stored a third time.
func TestLostPackIsStoredAgain(t *testing.T) {
	for _, how := range []string{"gone", "short", "withdrawn", "retired"} {
		for _, scan := range []string{"auto", "full"} {
			t.Run(how+" "+scan, func(t *testing.T) {
				b := newBed(t, 24<<20)
				_, old := b.backup(t, nil)
				b.spoilAPack(t, how)
				scanned := func(o *Options) { o.Scan = scan }
				s, p := b.backup(t, scanned)
				if s.Finished.NewBytes == 0 {
					t.Error("nothing was stored")
				}
				if scan == "auto" && !strings.Contains(p.ScanReason, "stored again") {
					t.Errorf("scan reason %q", p.ScanReason)
				}
				if _, err := restore.Verify(t.Context(), b.vault, old.PointCommitted, restore.Options{}); !errors.Is(err, vault.ErrDamaged) {
					t.Errorf("verify of the old point: %v", err)
				}
				if _, err := restore.Verify(t.Context(), b.vault, p.PointCommitted, restore.Options{ReadPercent: 100}); err != nil {
					t.Errorf("verify of the new point: %v", err)
				}
				for _, again := range []func(*Options){nil, scanned} {
					if s, _ := b.backup(t, again); s.Finished.NewBytes != 0 {
						t.Errorf("%d bytes were stored a third time", s.Finished.NewBytes)
					}
				}
			})
		}
	}
}

// A pack that is brought back is used again.
func TestPackThatComesBack(t *testing.T) {
	b := newBed(t, 16<<20)
	b.backup(t, nil)
	path := b.objects(t, "packs")[0]
	if err := os.Rename(path, path+"-away"); err != nil {
		t.Fatal(err)
	}
	o := b.options(t)
	index, err := known.Refresh(t.Context(), b.vault, o.Catalog, b.vault.Config.DefaultDomain, o.Index)
	if err != nil {
		t.Fatal(err)
	}
	for key := range o.Catalog.Packs { // on a slow machine there are several
		if key.Pack.String() == filepath.Base(path) && index.Trusts(key) {
			t.Fatalf("pack %s is trusted", key.Pack)
		}
	}
	if err := os.Rename(path+"-away", path); err != nil {
		t.Fatal(err)
	}
	if s, _ := b.backup(t, func(o *Options) { o.Scan = "full" }); s.Finished.NewBytes != 0 {
		t.Errorf("%d bytes are new", s.Finished.NewBytes)
	}
}

// Lost tables cost work and space, and no backup.
func TestLostTables(t *testing.T) {
	for _, kind := range []string{"extents", "chunks"} {
		t.Run(kind, func(t *testing.T) {
			b := newBed(t, 20<<20)
			_, p := b.backup(t, nil)
			ref := p.Disks[0].Extents[0]
			if kind == "chunks" {
				ref = p.Disks[0].Chunks[0]
			}
			for _, path := range b.objects(t, "tables") {
				if filepath.Base(path) != ref.Name.String() {
					continue
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.RemoveAll(filepath.Join(b.state, "index")); err != nil {
				t.Fatal(err)
			}
			s, next := b.backup(t, nil)
			if !next.Parent.IsZero() || !strings.HasPrefix(next.ScanReason, "parent's tables cannot be read: ") {
				t.Errorf("parent %s, scan reason %q", next.Parent, next.ScanReason)
			}
			if stored := s.Finished.NewBytes != 0; stored != (kind == "chunks") {
				t.Errorf("%d bytes are new", s.Finished.NewBytes)
			}
			if s, p := b.backup(t, nil); s.Finished.NewBytes != 0 || p.Parent != next.Point {
				t.Errorf("afterwards: %d bytes are new, parent %s", s.Finished.NewBytes, p.Parent)
			}
		})
	}
}

// A page that is damaged shows when it is read: the guest fails and says how to
// go on, and that works.
func TestDamagedPageOfTheParent(t *testing.T) {
	b := newBed(t, 20<<20)
	_, p := b.backup(t, nil)
	for _, path := range b.objects(t, "tables") {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(path) == p.Disks[0].Extents[0].Name.String() {
			raw[len(raw)/4] ^= 1 // in the first page: the index is at the end
		}
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, raw, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Backup(t.Context(), b.options(t))
	if err != nil || len(s.Guests) != 1 || s.Guests[0].Code != "damaged" || !strings.Contains(s.Guests[0].Remedy, "--scan full") {
		t.Fatalf("outcome %q, %v, %+v", s.Outcome, err, s.Guests)
	}
	b.backup(t, func(o *Options) { o.Scan = "full" })
	b.backup(t, nil)
}

// Another job's Refresh takes index files away while this one's delta is started
// again.
func TestIndexFilesAreTheJobsOwn(t *testing.T) {
	b := newBed(t, 60<<20)
	b.backup(t, nil)
	killed := 0
	s, _ := b.backup(t, func(o *Options) {
		o.Started = func(stage string, _ uint32, pid int) {
			if stage == flow.Delta && killed < 1 {
				killed++
				if err := errors.Join(os.RemoveAll(filepath.Join(b.state, "index")), syscall.Kill(pid, syscall.SIGKILL)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	if s.Finished.NewBytes != 0 {
		t.Errorf("%d bytes are new", s.Finished.NewBytes)
	}
	if _, err := os.Stat(filepath.Join(b.state, "jobs", s.Job.String(), "index")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the job's index files are left: %v", err)
	}
}
