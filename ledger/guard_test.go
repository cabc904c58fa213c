package ledger

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// fenceOf guards a job and notes what it was shown.
func fenceOf(job id.Job, from uint64, seen *[]uint64) *Guard {
	g := &Guard{Job: job, Next: from}
	if seen != nil {
		g.Check = func(r events.Record) error { *seen = append(*seen, r.Position); return nil }
	}
	return g
}

func TestGuardIsShownEverythingBefore(t *testing.T) {
	v, _ := newVault(t)
	mine, other := mustOpen(t, v, Options{}), mustOpen(t, v, Options{Cache: t.TempDir()})
	fillUp(t, other, 0, 5)
	var seen []uint64
	g := fenceOf(id.Job{1}, 2, &seen)
	for n := range 3 {
		at, err := mine.AppendGuarded(t.Context(), id.Job{1}, g, []events.Fact{fact(5 + 2*n)}, nil, nil)
		if err != nil || at != uint64(5+2*n) {
			t.Fatalf("position %d, %v", at, err)
		}
		fillUp(t, other, 6+2*n, 7+2*n)
	}
	if len(seen) != 7 || seen[0] != 2 || seen[6] != 8 {
		t.Errorf("shown were %v, want 2 to 8", seen)
	}
	if _, err := other.Append(t.Context(), id.Job{2}, []events.Fact{events.JobFenced{Fenced: id.Job{1}}}, nil, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it stays refused
		if _, err := mine.AppendGuarded(t.Context(), id.Job{1}, g, []events.Fact{fact(99)}, nil, nil); !errors.Is(err, ErrFenced) {
			t.Fatalf("behind the fence: %v", err)
		}
	}
	if next, _, _ := other.Head(); next != 12 || other.Refresh(t.Context()) != nil {
		t.Errorf("the ledger has %d segments, want 12", next)
	}
	// A process that begins there again, as a restarted indexer does.
	again := mustOpen(t, v, Options{})
	if _, err := again.AppendGuarded(t.Context(), id.Job{1}, fenceOf(id.Job{1}, 0, nil), []events.Fact{fact(99)}, nil, nil); !errors.Is(err, ErrFenced) {
		t.Errorf("from the beginning: %v", err)
	}
}

// slow lets another writer in at the worst moment: when all has been checked and
// the put is on its way.
type slow struct {
	store.Store
	before func(name string)
}

func (s slow) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	s.before(name)
	return s.Store.PutNew(ctx, name, size, body)
}

func TestFenceWhileThePutIsOnItsWay(t *testing.T) {
	v, _ := newVault(t)
	other := mustOpen(t, v, Options{})
	fillUp(t, other, 0, 3)
	slowly := *v
	fenced := false
	slowly.Store = slow{v.Store, func(name string) {
		if name == segmentName(4) && !fenced {
			fenced = true
			if _, err := other.Append(context.Background(), id.Job{2}, []events.Fact{events.JobFenced{Fenced: id.Job{1}}}, nil, nil); err != nil {
				t.Error(err)
			}
		}
	}}
	mine := mustOpen(t, &vault.Vault{ID: v.ID, Config: v.Config, Store: slowly.Store, Keys: v.Keys}, Options{})
	g := fenceOf(id.Job{1}, 0, nil)
	if _, err := mine.AppendGuarded(t.Context(), id.Job{1}, g, []events.Fact{fact(3)}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.AppendGuarded(t.Context(), id.Job{1}, g, []events.Fact{fact(4)}, nil, nil); !errors.Is(err, ErrFenced) {
		t.Fatalf("fenced between the check and the put: %v", err)
	}
	if mine.Lost() != 1 {
		t.Errorf("%d puts were lost, want 1", mine.Lost())
	}
}

// Many writers, one of whom is fenced at some moment: nothing of it stands behind
// the fence, everything of the others does, and the tries that each append needs
// are few.
func TestFenceAmongManyWriters(t *testing.T) {
	v, _ := newVault(t)
	const writers, each = 6, 25
	var all sync.WaitGroup
	lost := make([]uint64, writers)
	for w := range writers {
		l := mustOpen(t, v, Options{})
		all.Go(func() {
			job := id.Job{byte(w + 1)}
			g := fenceOf(job, 0, nil)
			for n := range each {
				_, err := l.AppendGuarded(t.Context(), job, g, []events.Fact{fact(n)}, nil, nil)
				if w == 0 && errors.Is(err, ErrFenced) {
					return
				}
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				if w == 1 && n == each/3 {
					if _, err := l.AppendGuarded(t.Context(), job, g, []events.Fact{events.JobFenced{Fenced: id.Job{1}}}, nil, nil); err != nil {
						t.Error(err)
					}
				}
			}
			lost[w] = l.Lost()
		})
	}
	all.Wait()
	fenced, count := false, map[id.Job]int{}
	for r, err := range mustOpen(t, v, Options{}).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		count[r.Job]++
		if _, ok := r.Fact.(events.JobFenced); ok {
			fenced = true
		} else if fenced && r.Job == (id.Job{1}) {
			t.Errorf("position %d is of the fenced job", r.Position)
		}
	}
	for w := 1; w < writers; w++ {
		if want := each + map[bool]int{true: 1}[w == 1]; count[id.Job{byte(w + 1)}] != want {
			t.Errorf("writer %d has %d facts, want %d", w, count[id.Job{byte(w + 1)}], want)
		}
	}
	t.Logf("puts lost by each writer, of %d: %v", each, lost)
}

// Keys from before a rotation do not take what was written after it for damage.
func TestARotationIsNotDamage(t *testing.T) {
	v, _ := newVault(t)
	old := mustOpen(t, v, Options{})
	fillUp(t, old, 0, 3)
	next, err := v.Rotated()
	if err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, next, Options{})
	fillUp(t, l, 3, 5)
	wantNumbers(t, l, 0, 5)
	_, err = numbers(t.Context(), old, 0)
	if !errors.Is(err, vault.ErrDamaged) { // nothing says yet that it is anything else
		t.Error(err)
	}
	p, _, err := next.PrepareRecovery(noon())
	if err == nil {
		err = next.AddKey(t.Context(), p)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = numbers(t.Context(), old, 0)
	_, err2 := old.Append(t.Context(), id.Job{}, []events.Fact{fact(9)}, nil, nil)
	for _, err := range []error{err, err2} {
		if !errors.Is(err, vault.ErrRotated) || errors.Is(err, vault.ErrDamaged) {
			t.Error(err)
		}
	}
	wantNumbers(t, l, 0, 5)
}
