package sidecar

import (
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// Of is whose blocks the sidecar of a job's disk describes, and the point it has to
// be of to be compared with; that is zero when the job compares with none.
func Of(w *flow.Work, disk uint32) (Key, At) {
	d := &w.Disks[disk]
	g := &w.Guests[d.Guest]
	k := Key{
		Vault: w.VaultID, Domain: w.Domain, Guest: g.ID, Disk: d.Info.Disk,
		Shape: Shape{Size: d.Info.VirtualSize, Cell: w.CellSize, Block: int64(w.Cutter.Block)},
	}
	if d.Parent == nil {
		return k, At{}
	}
	return k, At{Point: g.Parent, Root: d.Parent.Root}
}

// Usable reports whether a job compares blocks with those of the parent of a disk.
// One that distrusts packs does not: what only they have is to be stored again.
func Usable(w *flow.Work, disk uint32) bool {
	_, at := Of(w, disk)
	return w.Sidecars != "" && at.Point != (id.Point{}) && len(w.Distrusted) == 0
}
