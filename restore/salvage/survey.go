package salvage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Where a point was found.
const (
	FromLedger = "ledger"
	FromSaved  = "snapshot" // or a copy of the point
)

// Found is a point that is still written somewhere.
type Found struct {
	events.PointCommitted
	From string
	// Damage is what its disks miss; empty if every one is whole.
	Damage []restore.Damage
	order  uint64 // position in the ledger as far as it is known
}

// Whole reports whether disk n misses nothing.
func (f Found) Whole(n int) bool { return f.lost(n) == 0 }

// lost is how many bytes of disk n cannot be read.
func (f Found) lost(n int) int64 {
	var ranges []restore.Range
	for _, d := range f.Damage {
		for _, r := range d.Ranges {
			if r.Disk == f.Disks[n].Disk {
				ranges = append(ranges, r)
			}
		}
	}
	return covered(ranges)
}

// Readable is how many bytes of disk n can be read, holes included.
func (f Found) Readable(n int) int64 { return f.Disks[n].Size - f.lost(n) }

// covered is how many bytes ranges cover together.
func covered(ranges []restore.Range) (n int64) {
	slices.SortFunc(ranges, func(a, b restore.Range) int { return cmp.Compare(a.Offset, b.Offset) })
	var end int64
	for _, r := range ranges {
		from := max(end, r.Offset)
		end = max(end, r.Offset+r.Length)
		n += max(0, end-from)
	}
	return n
}

// Result is what was found.
type Result struct {
	Points []Found // not forgotten ones, in the order of the ledger
	// Loose are disks of which no point is whole, from the footers of packs.
	Loose []Loose
	// Damage is what is wrong with the ledger, its checkpoints, snapshots and packs,
	// as far as it is not of one point: in order of finding.
	Damage []error
	jobs   map[id.Job]bool // that the ledger has heard of
	// Forgotten is how many points were found that were meant to go.
	Forgotten int
}

// Err is nil if nothing is wrong.
func (r Result) Err() error {
	all := slices.Clone(r.Damage)
	for _, p := range r.Points {
		for _, d := range p.Damage {
			all = append(all, fmt.Errorf("point %s: %s: %w", id.Short(p.Point), d.Object, d.Cause))
		}
	}
	return errors.Join(all...)
}

// Survey looks through a vault. tell is told, now and then, what is being looked at.
func Survey(ctx context.Context, v *vault.Vault, tell func(string)) (Result, error) {
	var r Result
	found := map[id.Point]*Found{}
	forgotten := map[id.Point]bool{}
	moved := newSuccessors()
	tell("the ledger")
	if err := r.ledger(ctx, v, found, forgotten, moved); err != nil {
		return r, err
	}
	tell("snapshots and copies of points")
	for p, err := range saved.Points(ctx, v) {
		if err != nil {
			if err := r.note(ctx, err); err != nil {
				return r, err
			}
			continue
		}
		moved.point(p)
		if p.Forgotten != 0 {
			forgotten[p.Point] = true
		} else if found[p.Point] == nil {
			f := &Found{PointCommitted: p.PointCommitted, From: FromSaved, order: p.Position}
			if f.order == 0 {
				f.order = math.MaxUint64 // copies are of what came after the last snapshot
			}
			found[p.Point] = f
		}
	}
	for p := range forgotten {
		if found[p] != nil {
			delete(found, p)
			r.Forgotten++
		}
	}
	whole := len(r.Damage) == 0 // else that is why the ledger does not know something
	explained := map[vault.PackDisk]bool{}
	all := slices.SortedFunc(maps.Values(found), func(a, b *Found) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.Time, b.Time), bytes.Compare(a.Point[:], b.Point[:]))
	})
	for n, f := range all {
		tell(fmt.Sprintf("point %d of %d", n+1, len(all)))
		if err := f.look(ctx, v, moved); err != nil {
			return r, err
		}
		for n, d := range f.Disks {
			if f.Whole(n) {
				explained[vault.PackDisk{Guest: f.Guest, Disk: d.Disk}] = true
			}
		}
		r.Points = append(r.Points, *f)
	}
	tell("packs")
	strangers, err := r.footers(ctx, v, explained)
	if err == nil && whole {
		err = r.blame(ctx, v, strangers)
	}
	return r, err
}

// blame says what the vault has and a whole ledger does not name: points in copies,
// and packs of the jobs that are strangers. It was set back then, or lost its end. A
// job that has begun since the ledger was read is no sign of that, so the ledger is
// asked once more.
func (r *Result) blame(ctx context.Context, v *vault.Vault, strangers map[id.Job]string) error {
	copies := map[id.Point]bool{}
	for n := range r.Points {
		if r.Points[n].From == FromSaved {
			copies[r.Points[n].Point] = true
		}
	}
	if len(copies) == 0 && len(strangers) == 0 {
		return nil
	}
	for rec, err := range records(ctx, v) {
		if err != nil {
			return fmt.Errorf("read the ledger again: %w", err)
		}
		delete(strangers, rec.Job)
		if f, ok := rec.Fact.(events.PointCommitted); ok {
			delete(copies, f.Point)
		}
	}
	for n := range r.Points {
		if p := &r.Points[n]; p.From == FromSaved && !copies[p.Point] {
			p.From = FromLedger
		} else if p.From == FromSaved {
			r.Damage = append(r.Damage, fmt.Errorf("point %s is in a copy and not in the ledger, which was set back or lost its end: %w", id.Short(p.Point), vault.ErrDamaged))
		}
	}
	for _, pack := range slices.Sorted(maps.Values(strangers)) {
		r.Damage = append(r.Damage, fmt.Errorf("%s: the ledger has nothing of the job that stored it: it was set back or lost its end: %w", pack, vault.ErrDamaged))
	}
	return nil
}

// ledger collects the points of every segment that opens, the tables that were written
// once more, and what is wrong with the ledger as a whole.
func (r *Result) ledger(ctx context.Context, v *vault.Vault, found map[id.Point]*Found, forgotten map[id.Point]bool, moved successors) error {
	r.jobs = map[id.Job]bool{}
	for rec, err := range records(ctx, v) {
		if err != nil {
			if err := r.note(ctx, err); err != nil {
				return err
			}
			continue
		}
		r.jobs[rec.Job] = true
		switch f := rec.Fact.(type) {
		case events.PointCommitted:
			found[f.Point] = &Found{PointCommitted: f, From: FromLedger, order: rec.Position}
		case events.PointForgotten:
			forgotten[f.Point] = true
		case events.TableReplaced:
			moved.told[f.Old.Name] = f.New
		}
	}
	l, err := ledger.Open(ctx, v, ledger.Options{})
	if err == nil {
		r.Damage = append(r.Damage, l.Damaged()...)
		err = l.Verify(ctx)
		switch next, _, _ := l.Head(); {
		case err == nil && next == 0:
			err = fmt.Errorf("the vault has no ledger: %w", vault.ErrDamaged)
		case err == nil && l.Signed().Size == 0:
			err = fmt.Errorf("the ledger has no checkpoint: %w", vault.ErrDamaged)
		}
	}
	if err != nil {
		return r.note(ctx, err)
	}
	return nil
}

// note keeps what is wrong with one object; an error that is about more is returned.
func (r *Result) note(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	about := errors.Is(err, vault.ErrDamaged) || errors.Is(err, vault.ErrNewer) || errors.Is(err, store.ErrNotFound) ||
		errors.Is(err, ledger.ErrRollback) || strings.Contains(err.Error(), "input/output error")
	if !about {
		return err
	}
	if !slices.ContainsFunc(r.Damage, func(known error) bool { return known.Error() == err.Error() }) {
		r.Damage = append(r.Damage, err)
	}
	return nil
}
