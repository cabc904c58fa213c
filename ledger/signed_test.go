package ledger

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/merkle"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// drop takes folders of a vault away.
func drop(t testing.TB, root string, folders ...string) {
	t.Helper()
	for _, f := range folders {
		if err := os.RemoveAll(filepath.Join(root, f)); err != nil {
			t.Fatal(err)
		}
	}
}

// A vault that was signed and has no checkpoint left, and may lack the end of its
// ledger, is not signed anew: what is missing would be hidden for good.
func TestCheckpointsGone(t *testing.T) {
	v, root := newVault(t)
	l := mustOpen(t, v, Options{Now: noon})
	fillUp(t, l, 0, 1)
	mustOpen(t, v, Options{}) // whoever made the vault died before it could sign
	for _, name := range []string{"points/1", "catalogs/1-1", "packs/j/1", "tables/j/1"} {
		file := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), v, Options{Now: noon}); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("with %s and no checkpoint: %v, want damage", name, err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	// The second segment stands behind a checkpoint, whoever puts it and however.
	fillUp(t, l, 1, 2)
	if c := mustOpen(t, v, Options{}).Signed(); c.Seq != 1 {
		t.Fatalf("the checkpoint behind the first segment covers %d", c.Seq)
	}
	for _, spoil := range []func(*testing.T, string){
		func(t *testing.T, r string) { drop(t, r, "checkpoints") },
		func(t *testing.T, r string) { flip(t, filepath.Join(r, checkpointName(l.Signed().Size)), 99) },
	} {
		c, r := copyVault(t, v)
		spoil(t, r)
		with, without := look(t, c, nil)
		if !errors.Is(with, vault.ErrDamaged) || !errors.Is(without, vault.ErrDamaged) {
			t.Errorf("two segments and no checkpoint: %v, %v; want damage", with, without)
		}
	}
}

// lateStart is a store in which the vault is signed for the first time, and goes on, just
// before or after one listing of an opener.
type lateStart struct {
	store.Store
	before, after string // the prefix that is listed then
	start         func()
}

func (s *lateStart) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if prefix == s.before {
			s.begin()
		}
		for e, err := range s.Store.List(ctx, prefix) {
			if !yield(e, err) {
				return
			}
		}
		if prefix == s.after {
			s.begin()
		}
	}
}

func (s *lateStart) begin() {
	if start := s.start; start != nil {
		s.start = nil
		start()
	}
}

func TestTheFirstJobBeginsWhileALedgerIsOpened(t *testing.T) {
	for _, s := range []lateStart{{after: checkpointFolder}, {before: segmentFolder}, {after: segmentFolder}, {before: "points/"}, {before: "packs/"}} {
		v, root := newVault(t)
		writer := mustOpen(t, v, Options{})
		fillUp(t, writer, 0, 1)
		opened := *v
		s.Store, s.start = v.Store, func() {
			fillUp(t, writer, 1, 5)
			if err := os.MkdirAll(filepath.Join(root, "packs", "j"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(root, "packs", "j", "1"), []byte("x"))
		}
		opened.Store = &s
		wantNumbers(t, mustOpen(t, &opened, Options{}), 0, 5)
	}
}

// Every line that compares what was signed with what is there, by a vault that differs in
// nothing else.
func TestWhatIsSignedIsCompared(t *testing.T) {
	v, root := newVault(t)
	l := mustOpen(t, v, Options{})
	fillUp(t, l, 0, 3)
	three := checkpoint(t, l)
	sign := func(seq uint64, tree merkle.Tree) Checkpoint {
		c, err := signCheckpoint(v, seq, tree, nil, noon())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Run("more segments than leaves", func(t *testing.T) {
		c := sign(three.Size+1, three.tree())
		if _, err := ParseCheckpoint(v.Config, c.Note); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("%v, want damage", err)
		}
	})
	t.Run("an older checkpoint under a later name", func(t *testing.T) {
		c, r := copyVault(t, v)
		name := filepath.Join(r, checkpointName(three.Size))
		write(t, name, read(t, filepath.Join(root, checkpointName(mustFirst(t, l).Size))))
		if _, err := ReadCheckpoint(t.Context(), c.Config, c.Store, three.Size); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("%v, want damage", err)
		}
	})
	t.Run("the ledger ends before a damaged checkpoint", func(t *testing.T) {
		c, r := copyVault(t, v)
		write(t, filepath.Join(r, checkpointName(three.Size+4)), []byte("no checkpoint"))
		if _, err := Open(t.Context(), c, Options{Now: noon}); !errors.Is(err, vault.ErrDamaged) || !strings.Contains(err.Error(), "damaged checkpoint for size") {
			t.Errorf("%v, want damage", err)
		}
	})
	t.Run("somebody else signs another root of this size", func(t *testing.T) {
		c, r := copyVault(t, v)
		ours := mustOpen(t, c, Options{})
		fillUp(t, ours, 3, 4)
		_, size, _ := ours.Head()
		other := three.tree().With(make([]events.Hash, size-three.Size)...)
		write(t, filepath.Join(r, checkpointName(size)), sign(4, other).Note)
		if _, err := ours.Checkpoint(t.Context()); !errors.Is(err, ErrForked) {
			t.Errorf("%v, want a fork", err)
		}
	})
	t.Run("seen was another vault", func(t *testing.T) {
		seen := three
		seen.Vault = id.Vault{1}
		if err := l.Compare(t.Context(), seen); !errors.Is(err, ErrForked) {
			t.Errorf("%v, want a fork", err)
		}
	})
}

// mustFirst is the checkpoint of the first segment.
func mustFirst(t *testing.T, l *Ledger) Checkpoint {
	t.Helper()
	size, _, err := l.At(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.readCheckpoint(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A segment of another history that has the right number and as many leaves before it is
// not adopted: neither by its root, nor by an edge that is not that of its root.
func TestASegmentOfAnotherRootIsNotAdopted(t *testing.T) {
	v, _ := newVault(t)
	fillUp(t, mustOpen(t, v, Options{}), 0, 1)
	ours, _ := copyVault(t, v)
	theirs, theirRoot := copyVault(t, v)
	l, o := mustOpen(t, ours, Options{}), mustOpen(t, theirs, Options{})
	fillUp(t, l, 1, 2)
	fillUp(t, o, 4, 5) // another fact, as many leaves
	fillUp(t, o, 5, 6)
	write(t, filepath.Join(storeRoot(ours), segmentName(2)), read(t, filepath.Join(theirRoot, segmentName(2))))
	for name, open := range map[string]func() error{
		"with": func() error { _, err := Open(t.Context(), ours, Options{Now: noon}); return err },
		"without": func() error {
			_, err := OpenReadOnly(t.Context(), ours.Config, ours.Store, Options{Now: noon})
			return err
		},
		"running": func() error { return l.Refresh(t.Context()) },
	} {
		if err := open(); !errors.Is(err, ErrForked) {
			t.Errorf("%s the password: %v, want a fork", name, err)
		}
	}
	// The root of ours over the edge of theirs.
	s, err := ReadSegment(t.Context(), theirs.Config, theirs.Store, 2)
	if err != nil {
		t.Fatal(err)
	}
	h := s.Header
	h.PrevRoot = l.head.Root()
	clear, err := clearPart(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseSegment(append(clear, s.body...)); !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("an edge that is not that of the root: %v, want damage", err)
	}
}
