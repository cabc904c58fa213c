package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/bits"

	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
)

// tracked is how a disk is read of which the driver knows what has changed.
type tracked struct {
	tracker hypervisor.Tracker
	disk    hypervisor.Disk
	size    int64
	cell    int64
	block   int64
	whole   []uint64 // a bit per cell: it is read whole, whatever has changed in it
	told    kept     // what the tracker has told; written by choose alone, if it is whole then
}

func (t *tracked) isWhole(cell int64) bool { return t.whole[cell/64]&(1<<(cell%64)) != 0 }
func (t *tracked) readWhole(cell int64)    { t.whole[cell/64] |= 1 << (cell % 64) }

// track finds out whether the disk can be read by what its driver knows has changed, and
// completes the plan so far. If not, the plan says why all is read.
func (s *stage) track(ctx context.Context, h *hold, p *plan, place int, seed uint64) error {
	w := &s.w.Config.Work
	d := &w.Disks[p.fact.Number]
	if len(h.frozen.Tracking) <= place {
		if !w.Guests[d.Guest].Parent.IsZero() {
			p.fact.Reason = "the source does not track changes, so " + p.fact.Reason
		}
		return nil
	}
	if d.Parent == nil {
		return nil
	}
	state := h.frozen.Tracking[place]
	tracker, can := h.driver.(hypervisor.Tracker)
	why := state.Reason
	switch {
	case !can || state.Granularity <= 0:
	case !bytes.Equal(d.Parent.Token, d.Since):
		why = "what has changed is known since another point than that which is compared with"
	case len(w.Distrusted) > 0:
		why = "packs that the parent names are lost or not to be used"
	default:
		t := &tracked{tracker: tracker, disk: p.disk, size: p.disk.Info.VirtualSize, cell: w.CellSize, block: int64(w.Cutter.Block)}
		t.whole = make([]uint64, ((t.size+t.cell-1)/t.cell+63)/64)
		for _, cell := range d.Uncompared {
			t.readWhole(cell) // what of it is damaged is stored again
		}
		f := s.records(p.fact.Number)
		if f != nil {
			defer f.Close() // it was only read
		}
		if err := t.choose(ctx, f, &p.fact.DirtyBytes); err != nil {
			return err
		}
		bad, err := s.sample(ctx, h, t, f, p, seed)
		if err != nil {
			return err
		}
		if bad < 0 {
			p.tracked, p.fact.Mode, p.fact.Source = t, events.ModeIncremental, state.Kind
			p.fact.Granularity, p.fact.TrackingKind, p.fact.Token = state.Granularity, state.Kind, d.Since
			p.fact.Reason = fmt.Sprintf("the %s tells what has changed since point %s", state.Kind, id.Short(p.fact.Parent))
			return nil
		}
		why = fmt.Sprintf("the %s calls byte %d unchanged, and it has changed: nothing it says is believed", state.Kind, bad)
	}
	p.fact.DirtyBytes = 0
	p.fact.Reason = why + "; so " + p.fact.Reason
	return nil
}

// records opens what is known of a disk's blocks at the parent point; nil: nothing.
func (s *stage) records(disk uint32) *sidecar.File {
	w := &s.w.Config.Work
	if !sidecar.Usable(w, disk) {
		return nil
	}
	key, at := sidecar.Of(w, disk)
	f, err := sidecar.Open(w.Sidecars, key, at)
	if err != nil {
		return nil
	}
	return f
}

// choose decides which cells are read whole: those of which nothing is known, so that
// from then on it is, and those that would have too many changes or pieces to be spliced
// on if all that is reported has changed. It adds up what is reported.
func (t *tracked) choose(ctx context.Context, f *sidecar.File, dirty *int64) error {
	rec := (&sidecar.Shape{Size: t.size, Cell: t.cell, Block: t.block}).NewRecord()
	var now, blocks, runs int64 = -1, 0, 0
	settle := func() {
		if now < 0 || t.isWhole(now) {
			return
		}
		changed, pieces := sidecar.Limits(now, int(t.cell/t.block))
		// A run ends one piece and begins two; in what is reported coarsely each block
		// may be a run of its own, which the next job finds out.
		if f == nil || !f.Sets(now, rec) || rec.Changed.Len()+int(blocks) > changed || rec.Starts.Len()+2*int(runs) > pieces {
			t.readWhole(now)
		}
	}
	for e, err := range t.reported(ctx) {
		if err != nil {
			return err
		}
		*dirty += e.Length
		for at := e.Offset; at < e.End(); {
			cell := at / t.cell
			if cell != now {
				settle()
				now, blocks, runs = cell, 0, 0
			}
			end := min(e.End(), (cell+1)*t.cell)
			blocks += (end - at + t.block - 1) / t.block
			runs++
			at = end
		}
	}
	settle()
	return nil
}

// reported is what the driver says has changed, in whole blocks, each once.
func (t *tracked) reported(ctx context.Context) iter.Seq2[vdisk.Extent, error] {
	if t.told.whole {
		return t.told.all(t.block, t.size)
	}
	return func(yield func(vdisk.Extent, error) bool) {
		var told kept
		last := int64(0)
		for r, err := range t.tracker.Changes(ctx, t.disk) {
			if err == nil && (r.Offset < 0 || r.Length <= 0 || r.Offset > t.size || r.Length > t.size-r.Offset) {
				err = fmt.Errorf("a change of %d bytes at %d on a disk of %d", r.Length, r.Offset, t.size)
			}
			if err != nil {
				yield(vdisk.Extent{}, err)
				return
			}
			// Two changes may share a block where the tracker's unit is less.
			from, to := max(r.Offset/t.block, last), (r.Offset+r.Length+t.block-1)/t.block
			if from >= to {
				continue
			}
			told.add(from, to)
			last = to
			if !yield(vdisk.Extent{Offset: from * t.block, Length: min(to*t.block, t.size) - from*t.block}, nil) {
				return
			}
		}
		if told.whole = !told.over; told.whole {
			t.told = told
		}
	}
}

// wholes lists the cells that are read whole.
func (t *tracked) wholes() iter.Seq[vdisk.Extent] {
	return func(yield func(vdisk.Extent) bool) {
		for i, set := range t.whole {
			for ; set != 0; set &= set - 1 {
				at := int64(64*i+bits.TrailingZeros64(set)) * t.cell
				if !yield(vdisk.Extent{Offset: at, Length: min(t.cell, t.size-at)}) {
					return
				}
			}
		}
	}
}

// extents is all that is read: what is reported and the cells that are read whole, in
// order and apart.
func (t *tracked) extents(ctx context.Context) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		next, stop := iter.Pull(t.wholes())
		defer stop()
		cell, more := next()
		var cur vdisk.Extent
		add := func(e vdisk.Extent) bool {
			if cur.Length > 0 && e.Offset <= cur.End() {
				cur.Length = max(cur.End(), e.End()) - cur.Offset
				return true
			}
			was := cur
			cur = e
			return was.Length == 0 || yield(was, nil)
		}
		for e, err := range t.reported(ctx) {
			if err != nil {
				yield(vdisk.Extent{}, err)
				return
			}
			for ; more && cell.Offset <= e.Offset; cell, more = next() {
				if !add(cell) {
					return
				}
			}
			if !add(e) {
				return
			}
		}
		for ; more; cell, more = next() {
			if !add(cell) {
				return
			}
		}
		if cur.Length > 0 {
			yield(cur, nil)
		}
	}
}
