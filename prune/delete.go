package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// ErrNeeded: a listed point needs what was retired. Nothing of it is deleted.
var ErrNeeded = errors.New("a point needs what was retired")

// Waiting says why something retired is not to be deleted yet.
type Waiting struct {
	*catalog.Retirement
	Jobs  []*catalog.Job // that began before it and have not ended
	Pins  []catalog.Pin  // of readers that did
	Until time.Time      // the margin; zero if it is over
}

// Due divides what is retired into what may be deleted now and what has to wait,
// each in the order of the ledger. self is the job that asks.
//
// A job or reader that began behind a retirement has read it, or the state in which it is,
// before it looked for anything. So only what has a lower position can hold
// something, whatever clocks say.
func Due(s *catalog.State, now time.Time, self id.Job) (due []*catalog.Retirement, waiting []Waiting) {
	for _, at := range slices.Sorted(maps.Keys(s.Retired)) {
		w := Waiting{Retirement: s.Retired[at]}
		for _, j := range s.Jobs {
			if j.ID != self && j.Open() && j.Position < at {
				w.Jobs = append(w.Jobs, j)
			}
		}
		slices.SortFunc(w.Jobs, func(a, b *catalog.Job) int { return cmp.Compare(a.Position, b.Position) })
		for _, p := range s.Pins {
			if p.Position < at && (p.Until == 0 || now.Before(p.Until.Time())) {
				w.Pins = append(w.Pins, p)
			}
		}
		if after := w.After.Time(); now.Before(after) {
			w.Until = after
		}
		if len(w.Jobs)+len(w.Pins) == 0 && w.Until.IsZero() {
			due = append(due, w.Retirement)
		} else {
			waiting = append(waiting, w)
		}
	}
	return due, waiting
}

// Delete deletes the objects of a retirement that is due, and says so. The state is of the whole
// ledger. A checkpoint covers the retirement first: without it, what has gone is missing. A crash
// between two objects, or before the fact, leaves some of them: retired, in use by nobody, deleted by
// the next run. After the fact nobody looks for them again.
func (w *Work) Delete(ctx context.Context, s *catalog.State, r *catalog.Retirement) error {
	err := w.unneeded(ctx, s, r)
	if err == nil && w.Ledger.Signed().Seq <= r.Position {
		_, err = w.Ledger.Checkpoint(ctx)
	}
	if err != nil {
		return err
	}
	done := events.ObjectsDeleted{Retired: r.Position, Packs: uint64(len(r.Packs)), Tables: uint64(len(r.Tables)), Bytes: r.Bytes}
	for _, p := range r.Packs {
		if err := w.remove(ctx, vault.PackName(p.Job, p.Pack)); err != nil {
			return err
		}
	}
	for _, t := range r.Tables {
		if err := w.remove(ctx, table.ObjectName(t)); err != nil {
			return err
		}
	}
	_, err = w.Ledger.AppendGuarded(ctx, w.Job, &ledger.Guard{Job: w.Job, Next: s.Next}, []events.Fact{done}, nil, nil)
	return err
}

func (w *Work) remove(ctx context.Context, name string) error {
	if err := w.Vault.Store.Delete(ctx, name); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// unneeded makes sure once more that no listed point needs what is to be deleted.
func (w *Work) unneeded(ctx context.Context, s *catalog.State, r *catalog.Retirement) error {
	packs, tables := map[table.PackRef]bool{}, map[id.Object]bool{}
	for _, p := range r.Packs {
		packs[table.PackRef{Job: p.Job, Name: p.Pack}] = true
	}
	for _, t := range r.Tables {
		tables[t.Name] = true
	}
	var later []*catalog.Point
	for _, p := range s.Listed() {
		for _, t := range p.Names() {
			if tables[t.Name] {
				return fmt.Errorf("point %s of %s names table %s, which position %d retires: %w", id.Short(p.Point), p.GuestName, t.Name, r.Position, ErrNeeded)
			}
		}
		if p.Position > r.Position {
			later = append(later, p)
		}
	}
	refs, by := chunkTables(later)
	for _, t := range refs {
		c, err := open(ctx, w.Vault, t, by[t.Name])
		if err != nil {
			return err
		}
		for _, k := range c.Packs() {
			if packs[k] {
				p := by[t.Name][0]
				return fmt.Errorf("point %s of %s names pack %s, which position %d retires: %w", id.Short(p.Point), p.GuestName, k.Name, r.Position, ErrNeeded)
			}
		}
	}
	return nil
}
