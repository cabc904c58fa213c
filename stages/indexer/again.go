package indexer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/millrace-backup/millrace/catalog/layers"
	"github.com/millrace-backup/millrace/catalog/rows"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/asks"
	"github.com/millrace-backup/millrace/ledger/table"
)

// maxAgain is how many parcels of a guest a job stores again because packs went
// while it ran: 512 GiB. Beyond that a new job, which plans without them, is better.
const maxAgain = 1 << 16

// uses yields the packs that a guest's point will refer to: those of what was
// found, and those that only the parent's layers name, unless the job was told to
// distrust them or has found them gone, and has stored again what they had.
func (x *indexer) uses(ctx context.Context, n uint32, ends map[uint32]int64) iter.Seq2[trust.Use, error] {
	return func(yield func(trust.Use, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(ends)) {
			p := &x.packs[k]
			if !yield(trust.Use{Pack: flow.PackID{Job: p.job, Name: p.Name}, Length: ends[k], Own: p.isNew}, nil) {
				return
			}
		}
		pages := table.NewPages()
		for _, d := range x.work.DisksOf(n) {
			parent := x.work.Disks[d].Parent
			if parent == nil {
				continue
			}
			m, err := pages.OpenMap(ctx, x.vault, *parent)
			if err != nil {
				yield(trust.Use{}, flow.ParentFault("open the tables of", x.work.Guests[n].Name, n, err))
				return
			}
			for p := range m.Packs() {
				k := flow.PackID(p)
				if !x.distrusted[k] && !x.guests[n].replaced[k] && !yield(trust.Use{Pack: k, Length: 1}, nil) {
					return
				}
			}
		}
	}
}

// storeAgain has the parcels of a guest read and stored once more that refer to
// packs which have gone. They count as not here from now on, so a point without
// them cannot be committed. None of it is in the journal: a successor of this
// process has the guest whole, finds the packs gone and asks again.
func (x *indexer) storeAgain(ctx context.Context, n uint32, gone map[flow.PackID]error) error {
	g := &x.guests[n]
	if g.replaced == nil {
		g.replaced = map[flow.PackID]bool{}
	}
	var why error
	for k, err := range gone {
		if why = err; g.replaced[k] { // it was stored again, and the point needs it all the same
			return x.park(n, trust.Fault(err))
		}
		x.gone[k], g.replaced[k] = true, true
	}
	var list []flow.RecheckEntry
	for _, d := range x.work.DisksOf(n) {
		parcels, err := x.forget(ctx, d, gone)
		if errors.Is(err, errUnread) {
			return x.park(n, trust.Fault(fmt.Errorf("%w: %w", err, why)))
		}
		if err != nil {
			return x.park(n, flow.ParentFault("read the tables of", x.work.Guests[n].Name, n, err))
		}
		for _, k := range parcels {
			list = append(list, flow.RecheckEntry{Disk: d, Number: k})
		}
	}
	if len(list) > maxAgain {
		return x.park(n, trust.Fault(fmt.Errorf("%d parcels need it, or others that have gone: %w", len(list), why)))
	}
	x.asks.Want(asks.Parcels{Guest: n, Fresh: true, List: list})
	g.asked, g.confirmed = false, false
	return nil
}

// errUnread says that what has gone was needed for a part of a disk that the job does not
// read, as nothing there has changed. The next job reads all of the disk.
var errUnread = errors.New("the parent's chunks are needed where the job reads nothing")

// forget makes the parcels of a disk that refer to one of these packs, or lie
// where the parent does, ones that have not come; what they counted for as known
// or new is taken out of the sums.
func (x *indexer) forget(ctx context.Context, n uint32, gone map[flow.PackID]error) (list []uint32, err error) {
	d, in := &x.disks[n], map[uint32]bool{}
	if parent := x.work.Disks[n].Parent; parent != nil {
		if in, err = layers.Within(ctx, x.vault, *parent, x.work.ParcelSize, gone); err != nil {
			return nil, err
		}
	}
	counted := map[uint32]int64{}
	lost := func(pack uint32) bool {
		k := &x.packs[pack]
		return gone[flow.PackID{Job: k.job, Name: k.Name}] != nil
	}
	for p, err := range d.rows.All() {
		if err != nil {
			return nil, err
		}
		c, some := p.Count(lost)
		in[p.Number] = in[p.Number] || some
		if in[p.Number] {
			d.known, d.fresh = d.known-c.Known, d.fresh-c.New
			d.knownChunks, d.newChunks, d.stored = d.knownChunks-c.KnownChunks, d.newChunks-c.NewChunks, d.stored-c.Stored
			counted[p.Number] = c.Known + c.New
		}
	}
	if d.stale == nil {
		d.stale = map[uint32]int64{}
	}
	for k, is := range in {
		if is && d.incremental() && !bit(d.plan.Cells, k) {
			return nil, errUnread
		}
		if is && k < x.work.Parcels(int(n)) && d.has(k) { // else it is a hole now
			d.stale[k] = counted[k]
			d.here[k/8] &^= 1 << (k % 8)
			d.left++
			list = append(list, k)
		}
	}
	slices.Sort(list)
	return list, nil
}

// discount takes the rest of what a parcel counted for out of the sums, now that
// it has come again; it has to be what it was. Where it was zero it is zero now, but
// small runs of zeros may have counted as unchanged with what is around them.
func (s *state) discount(p *flow.Parcel) error {
	d := &s.disks[p.Disk]
	first, err := s.spool.Digests.Get(d.first + uint64(p.Number))
	if err != nil {
		return err
	}
	if len(p.Sum) == len(first) && first != rows.DigestOf(p) { // else it is a sum of pieces, which differ
		s.fail(s.work.Disks[p.Disk].Guest, s.changed(p.Disk, "bytes at %d differ when they are read again", p.Number))
	}
	zero := int64(0)
	for i := range p.Pieces {
		if p.Pieces[i].Zero {
			zero += int64(p.Pieces[i].Length)
		}
	}
	rest := p.Length - d.stale[p.Number]
	unchanged := min(d.unchanged, max(rest-zero, 0))
	d.unchanged -= unchanged
	d.zero -= rest - unchanged
	return nil
}
