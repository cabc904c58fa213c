package indexer

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/millrace-backup/millrace/catalog/layers"
	"github.com/millrace-backup/millrace/catalog/points"
	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/catalog/spool"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/patient"
)

// commit makes a guest's recovery point.
func (x *indexer) commit(ctx context.Context, n uint32) error {
	defer x.trust.Done()
	var written tables
	var gone map[flow.PackID]error
	// Tables begun anew leave the first ones as objects that nobody names.
	err := x.patience.Do(ctx, func() (err error) {
		if written, err = x.writeTables(ctx, n); err == nil {
			gone, err = x.trust.Gone(ctx, x.uses(ctx, n, written.ends))
		}
		return err
	})
	if err != nil && patient.Passing(err) || errors.Is(err, store.ErrOther) {
		err = flow.VaultFault("write tables to", x.work.Vault, err)
	}
	if err == nil && len(gone) > 0 {
		return x.storeAgain(ctx, n, gone)
	}
	if err != nil {
		return x.park(n, err)
	}
	packs, in, done := x.packFacts()
	more, point := x.pointFacts(n, written.Written)
	// The commit point. Before this put the guest has no point and the tables
	// are objects nobody names; after it the point is there for good, and a
	// successor of this process finds it in the ledger. It is signed before
	// anyone is told of it and before snapshot may let go.
	if err := x.store(ctx, append(append(packs, more...), point), append(in, written.Objects...)); err != nil {
		if errors.Is(err, trust.ErrGone) {
			return nil // somebody was faster and took a pack away; the next try finds which
		}
		return x.park(n, err)
	}
	done()
	x.guests[n].point = point.Point
	for _, o := range written.Objects {
		x.tableBytes += o.Size
	}
	if err := x.sign(ctx); err != nil {
		return err
	}
	x.blocks.Commit(&point, x.left)
	return x.tell(ctx)
}

// park ends a guest's part in the job if that is what err says, and else returns it.
func (x *indexer) park(n uint32, err error) error {
	if f := flow.AsFault(err, flow.Indexer); f.Class == flow.Park {
		x.fail(n, f)
		return nil
	}
	return err
}

// tables is what was written for a point, and how far into each pack, by the
// state's number, its chunks reach.
type tables struct {
	layers.Written
	ends map[uint32]int64
}

// writeTables writes the tables of a guest's point.
func (x *indexer) writeTables(ctx context.Context, n uint32) (tables, error) {
	scratch, err := spill.Create(filepath.Join(x.w.Config.Folder, spool.Folder, "commit"))
	if err != nil {
		return tables{}, err
	}
	defer scratch.Close()
	out := tables{ends: map[uint32]int64{}}
	var disks []layers.Disk
	for _, d := range x.work.DisksOf(n) {
		w := &x.work.Disks[d]
		disks = append(disks, layers.Disk{Size: w.Info.VirtualSize, Parent: w.Parent, Found: x.found(d, out.ends)})
	}
	out.Written, err = layers.Write(ctx, x.vault, x.w.Config.Job, x.work.Domain, scratch, disks)
	if err != nil && !errors.Is(err, spill.ErrDamaged) { // that is ours, and no reason to think ill of the vault
		err = flow.ParentFault("write the tables of", x.work.Guests[n].Name, n, err)
	}
	return out, err
}

// pointFacts returns the point, and all that is said before it, in order.
func (x *indexer) pointFacts(n uint32, written layers.Written) ([]events.Fact, events.PointCommitted) {
	var taken *events.SnapshotTaken
	for _, r := range x.guests[n].facts {
		if f, ok := r.Fact.(events.SnapshotTaken); ok {
			taken = &f
		}
	}
	var disks []points.Disk
	for _, number := range x.work.DisksOf(n) {
		d := &x.disks[number]
		disks = append(disks, points.Disk{
			Plan: d.plan, Zero: d.zero, Unchanged: d.unchanged, Known: d.known, Fresh: d.fresh, Stored: d.stored, Read: d.read,
			NewChunks: d.newChunks, KnownChunks: d.knownChunks, Reread: d.reread,
		})
	}
	return points.Facts(x.work, x.w.Config.Job, n, taken, written, disks)
}
