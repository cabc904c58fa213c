package crashfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vault/store/storetest"
)

func openStore(t testing.TB, fsys dir.FS) *dir.Store {
	t.Helper()
	s, err := dir.OpenOn(fsys, "/vault")
	must(t, err)
	return s
}

func TestStoreConforms(t *testing.T) {
	storetest.Run(t, func(t testing.TB) store.Store { return openStore(t, New("/vault")) })
}

// object is the content that belongs to a name, so that a torn one can be told.
func object(name string) []byte { return []byte(strings.Repeat(name+"\n", 400)) }

// meddler is a body in the middle of which someone else does something.
type meddler struct {
	io.Reader
	do func()
}

func (m *meddler) Read(p []byte) (int, error) {
	if m.do != nil {
		m.do()
		m.do = nil
	}
	return m.Reader.Read(p)
}

// work is a workload: it notes what the store has promised.
func work(t *testing.T, d *Disk, fsys dir.FS) {
	ctx := context.Background()
	s, err := dir.CreateOn(fsys, "/srv/vault")
	must(t, err)
	put := func(name string, body io.Reader) {
		t.Helper()
		must(t, s.PutNew(ctx, name, int64(len(object(name))), body))
		d.Note("+" + name)
	}
	for _, name := range []string{"vault", "packs/job1/a", "packs/job1/b", "ledger/0", "ledger/1", "checkpoints/2"} {
		put(name, bytes.NewReader(object(name)))
	}
	for _, name := range []string{"tables/job1/t", "packs/job2/c"} {
		u, err := s.Begin(ctx)
		must(t, err)
		_, err = u.Write(object(name))
		must(t, err)
		must(t, u.Commit(ctx, name))
		d.Note("+" + name)
	}
	d.Note("~packs/job1/b") // from here on it may be there or not
	must(t, s.Delete(ctx, "packs/job1/b"))
	d.Note("-packs/job1/b")
	// Two processes race for a name, and the one that comes late has other bytes.
	other, err := dir.OpenOn(fsys, "/srv/vault")
	must(t, err)
	err = other.PutNew(ctx, "ledger/2", 5, &meddler{strings.NewReader("other"), func() { put("ledger/2", bytes.NewReader(object("ledger/2"))) }})
	if err != nil && !errors.Is(err, store.ErrExists) {
		t.Fatal(err)
	}
	// The loser of a race relies on what the winner put, before the winner does.
	var heard bool
	stop := errors.New("the winner dies here")
	slow := &onSync{FS: fsys, folder: "/srv/vault/ledger", last: "/srv/vault/ledger/3", do: func() error {
		err := other.PutNew(ctx, "ledger/3", 5, strings.NewReader("other"))
		heard = errors.Is(err, store.ErrExists)
		if heard {
			d.Note("+ledger/3")
		}
		return stop
	}}
	winner, err := dir.OpenOn(slow, "/srv/vault")
	must(t, err)
	if err := winner.PutNew(ctx, "ledger/3", int64(len(object("ledger/3"))), bytes.NewReader(object("ledger/3"))); !errors.Is(err, stop) || !heard {
		t.Fatalf("%v, heard %v", err, heard)
	}
}

// onSync does something instead of the first sync of a folder.
type onSync struct {
	dir.FS
	folder string
	last   string // only once this file is there
	do     func() error
}

func (o *onSync) SyncDir(name string) error {
	if name == o.folder && o.do != nil {
		if _, err := o.Stat(o.last); err == nil {
			do := o.do
			o.do = nil
			return do()
		}
	}
	return o.FS.SyncDir(name)
}

// judge checks what a crash left against what was promised before it.
func judge(c Case, after *Disk, log []Effect) error {
	promised := map[string]bool{}
	for _, e := range log[:c.Effects] {
		if e.Op == OpNote {
			promised[string(e.Data[1:])] = e.Data[0] == '+'
		}
		if e.Op == OpNote && e.Data[0] == '~' {
			delete(promised, string(e.Data[1:]))
		}
	}
	s, err := dir.OpenOn(after, "/srv/vault")
	if err != nil {
		if len(promised) > 0 {
			return fmt.Errorf("%s: %w", c, err)
		}
		return nil
	}
	there := map[string]bool{}
	for e, err := range s.List(context.Background(), "") {
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		there[e.Name] = true
		b, err := store.ReadAll(context.Background(), s, e.Name, 1<<20)
		if err != nil || !bytes.Equal(b, object(e.Name)) {
			return fmt.Errorf("%s: %s is torn or not the one that was promised (%d bytes, %v)", c, e.Name, len(b), err)
		}
	}
	for name, want := range promised {
		if want != there[name] {
			return fmt.Errorf("%s: %s: promised %v, there %v", c, name, want, there[name])
		}
	}
	return nil
}

func crashEverywhere(t *testing.T, wrap func(dir.Renaming) dir.FS) (states int, first error) {
	t.Helper()
	d := New("/")
	work(t, d, wrap(d))
	log := d.Log()
	first = Every(New("/"), log, Seeds(20), nil, func(c Case, after *Disk) error {
		states++
		return judge(c, after, log)
	})
	return states, first
}

func TestStoreSurvivesACrashAtEveryEffect(t *testing.T) {
	states, err := crashEverywhere(t, func(d dir.Renaming) dir.FS { return d })
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d crash states", states)
}

// Whoever made the folders of a vault may have died before a sync, or not cared, as
// mkdir does not.
func TestAVaultInFoldersThatOthersMade(t *testing.T) {
	d := New("/")
	for _, name := range []string{"/srv", "/srv/backup", "/srv/backup/vault"} {
		must(t, d.Mkdir(name))
	}
	s, err := dir.CreateOn(d, "/srv/backup/vault")
	must(t, err)
	must(t, s.PutNew(t.Context(), "packs/a", 1, strings.NewReader("x")))
	if got := outcomes(d, "/srv/backup/vault/packs/a"); len(got) != 1 || !got["x"] {
		t.Errorf("after a power cut: %v", got)
	}
}

// The bugs that this package is there to find.
type noFileSync struct{ dir.Renaming }

func (b noFileSync) Create(name string) (dir.File, error) {
	f, err := b.Renaming.Create(name)
	return unsynced{f}, err
}

type unsynced struct{ dir.File }

func (unsynced) Sync() error { return nil }

// noDirSync leaves out the sync of the folders that skip says.
type noDirSync struct {
	dir.Renaming
	skip func(d dir.FS, name string) bool
}

func (b noDirSync) SyncDir(name string) error {
	if b.skip(b.Renaming, name) {
		return nil
	}
	return b.Renaming.SyncDir(name)
}

// onlyFolders: there are no files in the folder, so it is synced as a parent.
func onlyFolders(d dir.FS, name string) bool {
	entries, err := d.ReadDir(name)
	for _, e := range entries {
		if !e.IsDir() {
			return false
		}
	}
	return err == nil
}

type renamesOver struct{ dir.Renaming }

func (b renamesOver) Publish(temp, name string) error { return b.Rename(temp, name) }

// syncsLate publishes before it syncs.
type syncsLate struct{ dir.Renaming }

func (b syncsLate) Create(name string) (dir.File, error) {
	f, err := b.Renaming.Create(name)
	return unsynced{f}, err
}

func (b syncsLate) Publish(temp, name string) error {
	d := b.Renaming.(*Disk)
	if err := d.Publish(temp, name); err != nil {
		return err
	}
	d.mu.Lock()
	n, err := d.find("open", name)
	var id int
	for i, f := range d.files {
		if err == nil && f == n.file {
			id = i
		}
	}
	d.mu.Unlock()
	return errors.Join(err, d.do(Effect{Op: OpSync, File: id}))
}

func TestPlantedBugsAreFound(t *testing.T) {
	for what, wrap := range map[string]func(dir.Renaming) dir.FS{
		"no fsync of the file":   func(d dir.Renaming) dir.FS { return noFileSync{d} },
		"fsync after the name":   func(d dir.Renaming) dir.FS { return syncsLate{d} },
		"rename over an object":  func(d dir.Renaming) dir.FS { return renamesOver{d} },
		"no fsync of any folder": func(d dir.Renaming) dir.FS { return noDirSync{d, func(dir.FS, string) bool { return true }} },
		"no fsync of the folder": func(d dir.Renaming) dir.FS {
			return noDirSync{d, func(f dir.FS, n string) bool { return !onlyFolders(f, n) }}
		},
		"no fsync of made parents": func(d dir.Renaming) dir.FS {
			return noDirSync{d, func(f dir.FS, n string) bool { return strings.HasPrefix(n, "/srv/vault/") && onlyFolders(f, n) }}
		},
		"no fsync above the vault": func(d dir.Renaming) dir.FS { return noDirSync{d, func(_ dir.FS, n string) bool { return n == "/srv" }} },
	} {
		if _, err := crashEverywhere(t, wrap); err == nil {
			t.Errorf("%s: not found", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
}
