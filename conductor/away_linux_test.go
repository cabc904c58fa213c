package conductor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// underWay runs a job and calls strike once, when first a pack has been stored, and
// then seen with each further update. seen is not called any more once it said true.
func (b *bed) underWay(t *testing.T, o Options, strike func(), seen func(Update) bool) (Summary, error) {
	t.Helper()
	var once sync.Once
	struck, over := false, false
	o.Observe = func(u Update) {
		if u.Progress.PackBytes > 0 {
			once.Do(func() { strike(); struck = true })
		}
		if struck && !over {
			over = seen(u)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, err := Backup(ctx, o)
	if !struck {
		t.Fatal("the job was over before anything happened to the vault")
	}
	return s, err
}

// verify reads all that the newest point needs, and holds the packs' facts against
// the packs: each is named once.
func (b *bed) verify(t *testing.T) {
	t.Helper()
	s := b.check(t)
	points := s.Listed()
	r, err := restore.Verify(t.Context(), b.vault, points[len(points)-1].PointCommitted, restore.Options{})
	if err != nil || r.Err() != nil {
		t.Errorf("verify: %v, %+v", err, r)
	}
	b.once(t)
}

// once makes sure that the ledger names each pack once and no chunk was stored in
// two packs that it names.
func (b *bed) once(t *testing.T) {
	t.Helper()
	packs, chunks := map[catalog.PackKey]bool{}, map[string]bool{}
	for r, err := range b.ledger(t).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		f, ok := r.Fact.(events.PackStored)
		if !ok {
			continue
		}
		key := catalog.PackKey{Job: r.Job, Pack: f.Pack}
		if packs[key] {
			t.Errorf("pack %s is told of twice", f.Pack)
		}
		packs[key] = true
		info, err := vault.ReadPackFooter(t.Context(), b.vault.Store, b.vault.Keys, r.Job, f.Pack)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range info.Entries {
			if chunks[e.Chunk.String()] {
				t.Errorf("chunk %s is stored twice", e.Chunk)
			}
			chunks[e.Chunk.String()] = true
		}
	}
}

// Workers that must write wait for a vault that is renamed away, and say so; it
// comes back, they go on, and nobody had to be replaced.
func TestVaultAwayForAMoment(t *testing.T) {
	b := newBed(t, 400<<20)
	away := b.root + "-away"
	waited := false
	s, err := b.underWay(t, b.options(t), func() {
		if err := os.Rename(b.root, away); err != nil {
			t.Error(err)
		}
	}, func(u Update) bool {
		if u.Waits == "" {
			return false
		}
		waited = true
		if _, err := os.Stat(b.root); err == nil {
			t.Error("the vault's folder was made anew")
		}
		time.Sleep(time.Second) // away for a while, during which they try again
		if err := os.Rename(away, b.root); err != nil {
			t.Error(err)
		}
		return true
	})
	if err != nil || s.Outcome != "done" || s.SlotsLeft != 0 || !waited {
		t.Fatalf("outcome %q, %v, %d slots left, waited %v", s.Outcome, err, s.SlotsLeft, waited)
	}
	for _, stage := range s.Stages {
		if stage.Restarts > 0 {
			t.Errorf("%s was restarted %d times", stage.Stage, stage.Restarts)
		}
	}
	b.verify(t)
}

// A vault that stays away ends the job when the bound is over; the next one finds
// what was stored.
func TestVaultAwayForGood(t *testing.T) {
	b := newBed(t, 400<<20)
	away := b.root + "-away"
	o := b.options(t)
	o.WaitGone, o.Memory = 2*time.Second, 16<<20 // small packs, of which many are soon in the ledger
	var once sync.Once
	o.Fact = func(r events.Record) {
		if _, ok := r.Fact.(events.PackStored); ok {
			once.Do(func() {
				if err := os.Rename(b.root, away); err != nil {
					t.Error(err)
				}
			})
		}
	}
	s, err := Backup(t.Context(), o)
	var f *flow.Fault
	if !errors.As(err, &f) || f.Code != "no-store" || f.Class != flow.Halt || f.Remedy == "" || f.Object == "" || !strings.Contains(f.Cause, "waited for 2") {
		t.Fatalf("outcome %q, %+v", s.Outcome, err)
	}
	if _, err := os.Stat(b.root); err == nil {
		t.Error("the vault's folder was made anew")
	}
	if err := os.Rename(away, b.root); err != nil {
		t.Fatal(err)
	}
	next, _ := b.backup(t, func(o *Options) { o.Lease = lease.Times{Look: 50 * time.Millisecond, Silence: time.Second} })
	if next.Finished.KnownBytes == 0 {
		t.Error("the next job found nothing of what was stored")
	}
	b.verify(t)
}

// Another vault where this one was: the job stops at once, and nothing is written
// into it.
func TestAnotherVaultInItsPlace(t *testing.T) {
	b, other := newBed(t, 400<<20), newBed(t, 1)
	before := tree(t, other.root)
	s, err := b.underWay(t, b.options(t), func() {
		if err := errors.Join(os.Rename(b.root, b.root+"-away"), os.Rename(other.root, b.root)); err != nil {
			t.Error(err)
		}
	}, func(Update) bool { return false })
	var f *flow.Fault
	if !errors.As(err, &f) || f.Code != "other-vault" || f.Remedy == "" {
		t.Fatalf("outcome %q, %+v", s.Outcome, err)
	}
	if after := tree(t, b.root); !slices.Equal(before, after) {
		t.Errorf("the other vault had %v, has %v", before, after)
	}
	if st, err := dir.Open(b.root); err != nil {
		t.Error(err)
	} else if _, err := trust.SameVault(t.Context(), st, b.vault.ID); !errors.Is(err, store.ErrOther) {
		t.Errorf("got %v", err)
	}
}

// tree lists all files below a folder.
func tree(t *testing.T, root string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
