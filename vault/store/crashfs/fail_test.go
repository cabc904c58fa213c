package crashfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

var kinds = []Kind{EIO, NoSpace, ShortWrite, SyncError}

// trial is one operation that is tried on a disk of which one operation fails.
type trial struct {
	name  string
	setUp func(t *testing.T, d *Disk)
	// try is called on the failing disk, and until it succeeds on the healed one.
	try func(fsys dir.Renaming) error
	// sound checks a disk after a crash: done says that try has succeeded before.
	sound func(d *Disk, done bool) error
}

// run fails every operation of the trial in every way. What counts as harmless (try
// succeeds all the same) must be as durable as if nothing had failed.
func (tr trial) run(t *testing.T) {
	failed, harmless := 0, 0
	for _, k := range kinds {
		for at := 1; ; at++ {
			d := New("/vault", "/state")
			if tr.setUp != nil {
				tr.setUp(t, d)
			}
			f := &Faulty{Disk: d, At: at, Kind: k}
			err := tr.try(f)
			if f.Hits() == 0 {
				if err != nil {
					t.Fatalf("%s: without a failure: %v", tr.name, err)
				}
				break
			}
			where := fmt.Sprintf("%s: operation %d, %s", tr.name, at, k)
			if err == nil {
				harmless++
			} else {
				failed++
				if text := err.Error(); strings.Contains(text, "PANIC") || text == "" {
					t.Errorf("%s: %v", where, err)
				}
			}
			tr.look(t, where+fmt.Sprintf(" (%v)", err), d, err == nil)
			f.Heal()
			if err := tr.try(f); err != nil {
				t.Errorf("%s: tried again: %v", where, err)
			}
			tr.look(t, where+", tried again", d, true)
		}
	}
	t.Logf("%s: %d failures told, %d harmless", tr.name, failed, harmless)
}

func (tr trial) look(t *testing.T, where string, d *Disk, done bool) {
	t.Helper()
	if err := tr.sound(d.Crash(Kept, 0), done); err != nil {
		t.Errorf("%s: as processes see it: %v", where, err)
	}
	for seed := range uint64(6) {
		for _, m := range []Mode{Lost, Random} {
			if err := tr.sound(d.Crash(m, seed), done); err != nil {
				t.Errorf("%s: after a power cut (%s, %d): %v", where, m, seed, err)
				return
			}
		}
	}
}

// whole checks that an object is absent, if it may be, or whole.
func whole(d *Disk, name string, want []byte, done bool) error {
	s, err := dir.OpenOn(d, "/vault")
	if err != nil {
		return err
	}
	b, err := store.ReadAll(context.Background(), s, name, 4<<20)
	if errors.Is(err, store.ErrNotFound) && !done {
		return nil
	}
	if err != nil || !bytes.Equal(b, want) {
		return fmt.Errorf("%s: %d bytes of %d, %v", name, len(b), len(want), err)
	}
	return nil
}

// there takes ErrExists for success, as every caller of PutNew that repeats does.
func there(err error) error {
	if errors.Is(err, store.ErrExists) {
		return nil
	}
	return err
}

func TestEveryFailingOperationOfTheStore(t *testing.T) {
	ctx, body := context.Background(), bytes.Repeat([]byte("body"), 400<<10)
	put := func(fsys dir.Renaming) error {
		s, err := dir.OpenOn(fsys, "/vault")
		if err != nil {
			return err
		}
		return there(s.PutNew(ctx, "packs/job/a", int64(len(body)), bytes.NewReader(body)))
	}
	trial{name: "put", try: put, sound: func(d *Disk, done bool) error { return whole(d, "packs/job/a", body, done) }}.run(t)
	trial{name: "upload", try: func(fsys dir.Renaming) error {
		s, err := dir.OpenOn(fsys, "/vault")
		if err != nil {
			return err
		}
		u, err := s.Begin(ctx)
		if err != nil {
			return err
		}
		defer u.Abort()
		if _, err := u.Write(body); err != nil {
			return err
		}
		return there(u.Commit(ctx, "packs/job/a"))
	}, sound: func(d *Disk, done bool) error { return whole(d, "packs/job/a", body, done) }}.run(t)
	trial{
		name:  "delete",
		setUp: func(t *testing.T, d *Disk) { must(t, put(d)) },
		try: func(fsys dir.Renaming) error {
			s, err := dir.OpenOn(fsys, "/vault")
			if err != nil {
				return err
			}
			err = s.Delete(ctx, "packs/job/a")
			if errors.Is(err, store.ErrNotFound) {
				return nil // and it will last
			}
			return err
		},
		sound: func(d *Disk, done bool) error {
			if !done {
				return whole(d, "packs/job/a", body, false)
			}
			s, err := dir.OpenOn(d, "/vault")
			if err != nil {
				return err
			}
			if _, err := s.Stat(ctx, "packs/job/a"); !errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("it is still there: %v", err)
			}
			return nil
		},
	}.run(t)
}

func TestEveryFailingOperationOfReplace(t *testing.T) {
	const name = "/state/checkpoints/v"
	try := func(text string) func(dir.Renaming) error {
		return func(fsys dir.Renaming) error { return dir.Replace(fsys, name, []byte(text)) }
	}
	for what, setUp := range map[string]func(t *testing.T, d *Disk){
		"new":     nil,
		"another": func(t *testing.T, d *Disk) { must(t, try("old")(d)) },
		"folders whose maker died": func(t *testing.T, d *Disk) {
			must(t, d.Mkdir("/state/checkpoints"))
		},
	} {
		trial{name: "replace, " + what, setUp: setUp, try: try("new"), sound: func(d *Disk, done bool) error {
			b, err := d.ReadFile(name)
			switch {
			case err == nil && string(b) == "new":
			case done:
				return fmt.Errorf("it holds %q, %v", b, err)
			case what == "another" && string(b) != "old", err == nil && what != "another":
				return fmt.Errorf("it holds %q, %v", b, err)
			}
			return nil
		}}.run(t)
	}
}

const password = "secret"

func newVault(t *testing.T, d *Disk) {
	t.Helper()
	s, err := dir.OpenOn(d, "/vault")
	must(t, err)
	_, _, err = vault.Create(t.Context(), s, []byte(password), vault.CreateOptions{
		KDF: vault.KDF{Name: "argon2id", MemoryKiB: 8 << 10, Time: 1, Threads: 1}, Now: time.Now,
	})
	must(t, err)
}

// onDisk is a vault whose keys are read once; see keysOf.
func onDisk(fsys dir.FS, keys *vault.Vault) (*vault.Vault, error) {
	s, err := dir.OpenOn(fsys, "/vault")
	if err != nil {
		return nil, err
	}
	v := *keys
	v.Store = s
	return &v, nil
}

// base is a disk with a vault on it, made once, and copied by a clean crash.
func base(t *testing.T) (*Disk, *vault.Vault) {
	t.Helper()
	d := New("/vault", "/state")
	newVault(t, d)
	s, err := dir.OpenOn(d, "/vault")
	must(t, err)
	v, err := vault.Open(t.Context(), s, []byte(password))
	must(t, err)
	return d.Crash(Lost, 0), v
}

// become makes d what another disk is.
func (d *Disk) become(other *Disk) { d.root = other.Crash(Kept, 0).root }

func TestEveryFailingOperationOfTheLedger(t *testing.T) {
	ctx := context.Background()
	start, keys := base(t)
	var opened *ledger.Ledger
	var on dir.Renaming
	trial{
		name:  "append and sign",
		setUp: func(t *testing.T, d *Disk) { d.become(start); opened, on = nil, nil },
		try: func(fsys dir.Renaming) error {
			if opened == nil || on != fsys { // the same ledger goes on after a failure
				v, err := onDisk(fsys, keys)
				if err != nil {
					return err
				}
				if opened, err = ledger.Open(ctx, v, ledger.Options{Now: time.Now}); err != nil {
					opened = nil
					return err
				}
				on = fsys
			}
			for range 2 {
				if _, err := opened.Append(ctx, id.Job{1}, []events.Fact{events.JobStarted{Verb: "backup"}}, nil, nil); err != nil {
					return err
				}
			}
			_, err := opened.Checkpoint(ctx)
			return err
		},
		sound: func(d *Disk, done bool) error {
			v, err := onDisk(d, keys)
			if err != nil {
				return err
			}
			l, err := ledger.Open(ctx, v, ledger.Options{Now: time.Now})
			if err != nil {
				return err
			}
			n := 0
			for r, err := range l.Records(ctx, 0) {
				if err != nil {
					return err
				}
				if r.Job == (id.Job{1}) {
					n++
				}
			}
			_, size, _ := l.Head()
			if done && (n < 2 || l.Signed().Size != size) {
				return fmt.Errorf("%d facts, signed to %d of %d", n, l.Signed().Size, size)
			}
			return l.Verify(ctx)
		},
	}.run(t)
}

func TestEveryFailingOperationOfPackAndTable(t *testing.T) {
	ctx := context.Background()
	start, keys := base(t)
	chunk := bytes.Repeat([]byte("sealed"), 1000)
	domain := keys.Config.DefaultDomain
	var pack vault.PackInfo
	trial{
		name:  "pack",
		setUp: func(t *testing.T, d *Disk) { d.become(start); pack = vault.PackInfo{} },
		try: func(fsys dir.Renaming) error {
			v, err := onDisk(fsys, keys)
			if err != nil {
				return err
			}
			w, err := vault.NewPackWriter(ctx, v.Store, v.Keys, id.Job{1}, domain)
			if err != nil {
				return err
			}
			defer w.Abort()
			for n := range 200 {
				if _, err := w.Add(vault.PackEntry{Chunk: id.Chunk{1, byte(n)}, Raw: 4096}, vault.PackDisk{}, chunk); err != nil {
					return err
				}
			}
			pack, err = w.Close(ctx)
			return err
		},
		sound: func(d *Disk, done bool) error {
			v, err := onDisk(d, keys)
			if err != nil {
				return err
			}
			found := false
			for e, err := range v.Store.List(ctx, "packs/") {
				if err != nil {
					return err
				}
				var name id.Object
				if err := name.UnmarshalText([]byte(e.Name[strings.LastIndexByte(e.Name, '/')+1:])); err != nil {
					return err
				}
				info, err := vault.ReadPackFooter(ctx, v.Store, v.Keys, id.Job{1}, name)
				if err != nil || len(info.Entries) != 200 {
					return fmt.Errorf("a torn pack is visible: %d entries, %w", len(info.Entries), err)
				}
				b, err := store.ReadAll(ctx, v.Store, e.Name, 8<<20)
				if err != nil || id.Sum(b) != name {
					return fmt.Errorf("%s has other bytes than its name says: %w", e.Name, err)
				}
				found = found || name == pack.Name
			}
			if done && !found {
				return errors.New("the pack is not there")
			}
			return nil
		},
	}.run(t)

	rows := func() iter.Seq2[table.ChunkRow, error] {
		return func(yield func(table.ChunkRow, error) bool) {
			for n := range 20000 {
				if !yield(table.ChunkRow{Chunk: id.Chunk{byte(n >> 8), byte(n)}, Raw: 4096, Stored: 4200, New: true}, nil) {
					return
				}
			}
		}
	}
	var ref events.TableRef
	trial{
		name:  "table",
		setUp: func(t *testing.T, d *Disk) { d.become(start); ref = events.TableRef{} },
		try: func(fsys dir.Renaming) error {
			v, err := onDisk(fsys, keys)
			if err != nil {
				return err
			}
			ref, _, err = table.WriteChunks(ctx, v, id.Job{1}, domain, []table.PackRef{{Job: id.Job{1}, Name: id.Object{1}}}, rows())
			return err
		},
		sound: func(d *Disk, done bool) error {
			if !done {
				return nil
			}
			v, err := onDisk(d, keys)
			if err != nil {
				return err
			}
			c, err := table.OpenChunks(ctx, v, ref)
			if err != nil {
				return err
			}
			n := 0
			for _, err := range c.All(ctx) {
				if err != nil {
					return err
				}
				n++
			}
			if n != 20000 {
				return fmt.Errorf("%d rows", n)
			}
			return nil
		},
	}.run(t)
}

// A writer dies between giving a segment its name and making that durable. Whoever
// saw the segment signs it; then the power goes.
func TestASegmentThatWasOnlySeenIsNotSigned(t *testing.T) {
	ctx := context.Background()
	d, keys := base(t)
	open := func(fsys dir.FS) *ledger.Ledger {
		v, err := onDisk(fsys, keys)
		must(t, err)
		l, err := ledger.Open(ctx, v, ledger.Options{Now: time.Now})
		must(t, err)
		return l
	}
	facts := []events.Fact{events.JobStarted{Verb: "backup"}}
	_, err := open(d).Append(ctx, id.Job{1}, facts, nil, nil)
	must(t, err)
	dead := errors.New("the writer dies here")
	first := open(&onSync{FS: d, folder: "/vault/ledger", last: "/vault/ledger/00000000000000000001", do: func() error {
		l := open(d)
		c, err := l.Checkpoint(ctx)
		must(t, err)
		for seed := range uint64(20) {
			for _, m := range []Mode{Lost, Random, Kept} {
				after := open(d.Crash(m, seed))
				if _, size, _ := after.Head(); size < c.Size || after.Verify(ctx) != nil {
					t.Errorf("%s, %d: signed to %d, there are %d", m, seed, c.Size, size)
				}
			}
		}
		return dead
	}})
	if _, err := first.Append(ctx, id.Job{1}, facts, nil, nil); err != nil && !errors.Is(err, dead) {
		t.Fatal(err)
	}
}
