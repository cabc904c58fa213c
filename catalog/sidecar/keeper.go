package sidecar

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
)

// Folder is where sidecars lie in the cache of their vault, and a job's updates in
// the job's folder.
const Folder = "blocks"

// Keeper takes what a job's parcels say of blocks, and makes sidecars of it when
// points are committed. It is the indexer's, and for one goroutine.
//
// Nothing that it does can fail a job: a disk for which something goes wrong is
// left without a sidecar.
type Keeper struct {
	work    *flow.Work
	folder  string
	updates map[uint32]*Update // nil: something went wrong
}

// NewKeeper returns a keeper whose updates are in the job's folder; those that a
// killed predecessor has begun are gone on with.
func NewKeeper(w *flow.Work, job string) *Keeper {
	return &Keeper{work: w, folder: filepath.Join(job, Folder), updates: map[uint32]*Update{}}
}

// Keep writes down the records of a parcel that is about to be taken in, and takes
// them out of it. A crash after it and before the parcel is in the journal
// leaves records of a parcel that comes again.
func (k *Keeper) Keep(p *flow.Parcel) {
	records := p.Blocks
	p.Blocks = nil
	if k.work.Sidecars == "" || p.Pass != flow.PassBackup || len(p.Sum) == 0 {
		return
	}
	u := k.update(p.Disk)
	if u == nil {
		return
	}
	if len(records) == 0 && slices.ContainsFunc(p.Pieces, func(x flow.Piece) bool { return x.Verdict != flow.Unchanged }) {
		k.spoil(p.Disk) // somebody on the way has dropped them: the parent's do not stand
		return
	}
	cell := k.work.CellSize
	if u.Keep(p.Offset/cell, int((p.Length+cell-1)/cell), records) != nil {
		k.spoil(p.Disk)
	}
}

func (k *Keeper) path(disk uint32) string {
	return filepath.Join(k.folder, fmt.Sprintf("%d.blocks", disk))
}

func (k *Keeper) update(disk uint32) *Update {
	u, tried := k.updates[disk]
	if tried {
		return u
	}
	key, _ := Of(k.work, disk)
	u, err := Gather(k.path(disk), key)
	if err != nil {
		u = nil
	}
	k.updates[disk] = u
	return u
}

// spoil gives a disk's update up. A successor of this process begins another, in
// which nothing is known of the cells that came before.
func (k *Keeper) spoil(disk uint32) {
	_ = k.updates[disk].Close()
	k.updates[disk] = nil
	_ = os.Remove(k.path(disk))
}

// Commit makes the sidecars of a guest's disks those of its new point. It may be
// called again for a point. A crash before it leaves sidecars of the
// point's parent, which the next job does not use.
//
// left says why a cell of a disk was not read.
func (k *Keeper) Commit(p *events.PointCommitted, left func(disk uint32, cell int64) Left) {
	if k.work.Sidecars == "" {
		return
	}
	for n := range k.work.Disks {
		disk := uint32(n)
		key, from := Of(k.work, disk)
		if key.Guest != p.Guest {
			continue
		}
		if !Usable(k.work, disk) {
			from = At{}
		}
		for i := range p.Disks {
			if p.Disks[i].Disk != key.Disk {
				continue
			}
			if u := k.update(disk); u != nil {
				_ = u.Apply(k.work.Sidecars, from, At{Point: p.Point, Root: p.Disks[i].Root}, func(cell int64) Left { return left(disk, cell) })
			}
			k.updates[disk] = nil
		}
	}
}

// Close lets go of the updates that no point came of.
func (k *Keeper) Close() {
	for _, u := range k.updates {
		if u != nil {
			_ = u.Close()
		}
	}
}
