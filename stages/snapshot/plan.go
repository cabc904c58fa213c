package snapshot

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk"
)

// plan is what will be read of one disk.
type plan struct {
	disk  hypervisor.Disk
	fact  events.ChangesResolved
	cells []byte // one bit per parcel of the disk, set: sent

	tracked *tracked // nil: all that is no hole is read
}

func (p *plan) has(n uint32) bool { return p.cells[n/8]&(1<<(n%8)) != 0 }

// minRecheck is the least that is read again of a disk, in bytes.
const minRecheck = 16 << 20

// plan walks the disk's extents once, to count: the indexer must know how many
// parcels to wait for before it can lose one.
func (s *stage) plan(ctx context.Context, h *hold, d uint32, place int, seed uint64) (*plan, error) {
	disk := h.guest.Disks[place]
	w := &s.w.Config.Work
	g := w.Guests[w.Disks[d].Guest]
	p := &plan{disk: disk, cells: make([]byte, (w.Parcels(int(d))+7)/8)}
	p.fact = events.ChangesResolved{
		Guest: g.ID, Disk: disk.ID, Number: d, Mode: events.ModeFull, Source: "extents", Reason: g.ScanReason, DiskBytes: disk.Info.VirtualSize,
	}
	if w.Disks[d].Parent != nil {
		p.fact.Parent = g.Parent
	}
	if err := s.track(ctx, h, p, place, seed); err != nil {
		return p, unreadable(disk.Path, err)
	}
	err := s.parcels(ctx, h, p, func(x *flow.Parcel) error {
		p.cells[x.Number/8] |= 1 << (x.Number % 8)
		p.fact.Parcels++
		for _, r := range x.Runs {
			p.fact.ReadBytes += r.Length
		}
		return nil
	})
	p.fact.Cells = p.cells
	return p, err
}

// sample picks the parcels that are read twice.
func (p *plan) sample(seed uint64, percent int) flow.Marks {
	out := flow.Marks{Disk: p.fact.Number, Bits: make([]byte, len(p.cells))}
	if p.fact.Parcels == 0 || percent == 0 {
		return out
	}
	perParcel := max(p.fact.ReadBytes/int64(p.fact.Parcels), 1)
	want := max(int64(p.fact.Parcels)*int64(percent)/100, minRecheck/perParcel, 1)
	rng := rand.New(rand.NewPCG(seed, uint64(p.fact.Number)))
	left := int64(p.fact.Parcels)
	for n := uint32(0); left > 0 && want > 0 && int(n/8) < len(p.cells); n++ {
		if !p.has(n) {
			continue
		}
		if rng.Int64N(left) < want { // selection sampling: exactly want of left
			out.Bits[n/8] |= 1 << (n % 8)
			want--
		}
		left--
	}
	return out
}

func all(uint32) bool { return true }

// send sends the parcels of one disk that pick chooses.
func (s *stage) send(ctx context.Context, h *hold, p *plan, pick func(uint32) bool, pass uint8, fresh bool) error {
	return s.chosen(ctx, h, p, pick, func(x *flow.Parcel) error {
		if h.over.Load() {
			return errOver
		}
		if x.Pass, x.Fresh = pass, fresh; fresh && x.Partial { // what the parent has there does not count
			x.Partial, x.Runs = false, []flow.Run{{Offset: x.Offset, Length: x.Length}}
		}
		return s.w.Send(ctx, flow.Reader, &flow.Message{Parcel: x})
	})
}

// chosen calls each for the parcels that pick chooses. They are those of the plan:
// a disk on which data and holes are elsewhere by now has changed.
func (s *stage) chosen(ctx context.Context, h *hold, p *plan, pick func(uint32) bool, each func(*flow.Parcel) error) error {
	seen := make([]byte, len(p.cells))
	err := s.parcels(ctx, h, p, func(x *flow.Parcel) error {
		if !pick(x.Number) {
			return nil
		}
		if !p.has(x.Number) {
			return changed(p.disk.Path, fmt.Errorf("data where there was a hole at byte %d: %w", x.Offset, hypervisor.ErrChanged))
		}
		seen[x.Number/8] |= 1 << (x.Number % 8)
		return each(x)
	})
	if err != nil {
		return err
	}
	parcel := s.w.Config.Work.ParcelSize
	for n := range uint32(8 * len(seen)) {
		if p.has(n) && pick(n) && seen[n/8]&(1<<(n%8)) == 0 {
			return changed(p.disk.Path, fmt.Errorf("a hole where there was data at byte %d: %w", int64(n)*parcel, hypervisor.ErrChanged))
		}
	}
	return nil
}

func (s *stage) sendListed(ctx context.Context, h *hold, plans map[uint32]*plan, list []flow.RecheckEntry, pass uint8, fresh bool) error {
	byDisk := map[uint32]map[uint32]bool{}
	for _, e := range list {
		if byDisk[e.Disk] == nil {
			byDisk[e.Disk] = map[uint32]bool{}
		}
		byDisk[e.Disk][e.Number] = true
	}
	for d, wanted := range byDisk {
		if plans[d] == nil {
			return fmt.Errorf("send parcels again: disk %d has no plan", d)
		}
		if err := s.send(ctx, h, plans[d], func(n uint32) bool { return wanted[n] }, pass, fresh); err != nil {
			return err
		}
	}
	return nil
}

// parcels opens the disk and calls each for every parcel that holds data.
func (s *stage) parcels(ctx context.Context, h *hold, p *plan, each func(*flow.Parcel) error) (err error) {
	im, err := h.driver.Open(ctx, p.disk)
	if err != nil {
		return unreadable(p.disk.Path, err)
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	size := p.disk.Info.VirtualSize
	if im.Size() != size {
		return changed(p.disk.Path, fmt.Errorf("%d bytes now, %d before: %w", im.Size(), size, hypervisor.ErrChanged))
	}
	extents := im.Extents(ctx, 0, size)
	if p.tracked != nil {
		extents = p.tracked.extents(ctx)
	}
	for x, err := range cut(extents, s.w.Config.Work.ParcelSize, size) {
		if err != nil {
			return unreadable(p.disk.Path, err)
		}
		x.Disk, x.Partial = p.fact.Number, p.tracked != nil
		if err := each(x); err != nil {
			return err
		}
	}
	return nil
}

// cut gathers extents into parcels; one that holds only zeros does not exist.
func cut(extents iter.Seq2[vdisk.Extent, error], parcel, size int64) iter.Seq2[*flow.Parcel, error] {
	return func(yield func(*flow.Parcel, error) bool) {
		var cur *flow.Parcel
		for e, err := range extents {
			if err != nil {
				yield(nil, err)
				return
			}
			if e.Kind == vdisk.Zero {
				continue
			}
			for at := e.Offset; at < e.End(); {
				n := at / parcel
				if cur != nil && int64(cur.Number) != n {
					if !yield(cur, nil) {
						return
					}
					cur = nil
				}
				if cur == nil {
					cur = &flow.Parcel{Number: uint32(n), Offset: n * parcel, Length: min(parcel, size-n*parcel)}
				}
				end := min(e.End(), (n+1)*parcel)
				cur.Runs = append(cur.Runs, flow.Run{Offset: at, Length: end - at})
				at = end
			}
		}
		if cur != nil {
			yield(cur, nil)
		}
	}
}

func unreadable(path string, err error) error {
	var f *flow.Fault
	if errors.As(err, &f) {
		return err
	}
	return &flow.Fault{
		Class: flow.Park, Code: "image-unreadable", Op: "read image", Object: path, Cause: err.Error(), Err: err,
		Remedy: "check that the image is whole and its disk healthy, then run the job again",
	}
}
