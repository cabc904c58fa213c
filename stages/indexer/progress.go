package indexer

import (
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/id"
)

// Progress is what the indexer tells the conductor, a few times a second. All
// numbers are totals.
type Progress struct {
	Guests     []GuestProgress `json:"guests"`
	Disks      []DiskProgress  `json:"disks"`
	PackBytes  int64           `json:"pack_bytes"`  // of durable packs of this job
	TableBytes int64           `json:"table_bytes"` // of its tables
	Checkpoint []byte          `json:"checkpoint"`  // the newest signed one
	Final      bool            `json:"final"`       // every guest is settled and released
}

// GuestProgress is the state of one guest.
type GuestProgress struct {
	Point    id.Point    `json:"point"` // committed
	Fault    *flow.Fault `json:"fault,omitempty"`
	Released bool        `json:"released"`
}

// DiskProgress accounts for the parcels of a disk that have come. When all have,
// Zero (holes included), Unchanged, Known and New add up to Size.
type DiskProgress struct {
	Size      int64  `json:"size"`
	Zero      int64  `json:"zero"`
	Unchanged int64  `json:"unchanged"`
	Known     int64  `json:"known"`
	New       int64  `json:"new"`
	Stored    int64  `json:"stored"`
	Read      int64  `json:"read"` // planned, in bytes
	Parcels   uint32 `json:"parcels"`
	Left      uint32 `json:"left"`
}

func (x *indexer) progress() Progress {
	p := Progress{PackBytes: x.packBytes, TableBytes: x.tableBytes, Checkpoint: x.signed.Note, Final: true}
	for i := range x.guests {
		g := &x.guests[i]
		p.Guests = append(p.Guests, GuestProgress{Point: g.point, Fault: g.fault, Released: g.released})
		p.Final = p.Final && g.released
	}
	for i := range x.disks {
		d := &x.disks[i]
		p.Disks = append(p.Disks, DiskProgress{
			Size: x.work.Disks[i].Info.VirtualSize, Zero: d.zero, Unchanged: d.unchanged, Known: d.known, New: d.fresh,
			Stored: d.stored, Read: d.read, Parcels: d.plan.Parcels, Left: d.left,
		})
		if !d.planned {
			p.Disks[i].Left = 0
		}
	}
	return p
}

// report publishes progress: at once when the job is over, else when there is
// time or the last report is old.
func (x *indexer) report(idle bool) {
	if !x.dirty && !idle {
		return
	}
	final := true
	for i := range x.guests {
		final = final && x.guests[i].released
	}
	if !final && !idle && x.w.Meter.Parcels()%16 != 0 {
		return
	}
	if b, err := events.Marshal(x.progress()); err == nil {
		x.dirty = x.w.Publish(address.ProgressSubject(x.w.Config.Job), b) != nil
	}
}
