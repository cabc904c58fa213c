package indexer

import (
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/catalog/points"
	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/asks"
)

// takePlan enters a guest's plan; a second one, of a restarted snapshot, changes
// nothing. Parcels may have come before it.
func (s *state) takePlan(p *flow.Plan) error {
	if int(p.Guest) >= len(s.guests) {
		return problem("plan", fmt.Sprintf("the job has no guest %d", p.Guest))
	}
	g := &s.guests[p.Guest]
	if g.planned {
		return s.widenRecheck(p)
	}
	records, err := events.DecodeRecords(p.Facts)
	if err != nil {
		return problem("plan", err.Error())
	}
	plans, err := s.checkPlan(p, records)
	if err != nil {
		return err
	}
	for n, c := range plans {
		s.planDisk(n, c)
	}
	g.recheck = 0
	for e := range p.Twice() {
		s.disks[e.Disk].expect(e.Number)
		g.recheck++
	}
	g.planned, g.facts = true, records
	for n := range plans {
		if err := s.compareAll(n); err != nil {
			return err
		}
	}
	return nil
}

// widenRecheck takes the second plan of a guest, from a snapshot stage that was
// restarted. It says the same as the first, except that more may have to be read
// twice: a lease that was interrupted proves nothing about the time in between.
func (s *state) widenRecheck(p *flow.Plan) error {
	planned := func(e flow.RecheckEntry) bool {
		return int(e.Disk) < len(s.disks) && s.work.Disks[e.Disk].Guest == p.Guest && e.Number < s.work.Parcels(int(e.Disk)) && bit(s.disks[e.Disk].plan.Cells, e.Number)
	}
	wanted := 0
	for e := range p.Twice() {
		if planned(e) {
			wanted++
		}
	}
	if wanted <= s.guests[p.Guest].recheck {
		return nil // a duplicate of the first
	}
	g := &s.guests[p.Guest]
	g.recheck, g.asked, g.confirmed = wanted, false, false
	for e := range p.Twice() {
		if !planned(e) {
			continue
		}
		s.disks[e.Disk].expect(e.Number)
		if err := s.compare(e.Disk, e.Number); err != nil {
			return err
		}
	}
	return nil
}

// checkPlan returns the plan of each disk of the guest, all of them, or what is
// wrong: a plan that can never be complete would keep the job waiting for ever.
func (s *state) checkPlan(p *flow.Plan, records []events.Record) (map[uint32]events.ChangesResolved, error) {
	plans := map[uint32]events.ChangesResolved{}
	for _, r := range records {
		c, ok := r.Fact.(events.ChangesResolved)
		if !ok {
			continue
		}
		if int(c.Number) >= len(s.disks) || s.work.Disks[c.Number].Guest != p.Guest || len(c.Cells) != len(s.disks[c.Number].here) {
			return nil, problem("plan", fmt.Sprintf("disk %d does not fit the job", c.Number))
		}
		set := uint32(0)
		for k := range uint32(8 * len(c.Cells)) {
			if bit(c.Cells, k) {
				set++
			}
			if bit(c.Cells, k) && k >= s.work.Parcels(int(c.Number)) {
				return nil, problem("plan", fmt.Sprintf("disk %d has no parcel %d", c.Number, k))
			}
		}
		if c.Mode == events.ModeIncremental && s.work.Disks[c.Number].Parent == nil {
			return nil, problem("plan", fmt.Sprintf("disk %d is incremental, and has no parent", c.Number))
		}
		if set != c.Parcels {
			return nil, problem("plan", fmt.Sprintf("disk %d has %d parcels, %d are marked", c.Number, c.Parcels, set))
		}
		plans[c.Number] = c
	}
	for _, n := range s.work.DisksOf(p.Guest) {
		if _, ok := plans[n]; !ok {
			return nil, problem("plan", fmt.Sprintf("disk %d is left out", n))
		}
	}
	for e := range p.Twice() {
		c, ok := plans[e.Disk]
		if !ok || e.Number >= s.work.Parcels(int(e.Disk)) || !bit(c.Cells, e.Number) {
			return nil, problem("plan", fmt.Sprintf("parcel %d of disk %d is to be read twice and not once", e.Number, e.Disk))
		}
	}
	return plans, nil
}

// incremental reports whether what is not read of the disk is as in the parent; else it
// is a hole.
func (d *disk) incremental() bool { return d.plan.Mode == events.ModeIncremental }

// left says why a cell was not read.
func (s *state) left(disk uint32, cell int64) sidecar.Left {
	d := &s.disks[disk]
	switch {
	case !d.planned || bit(d.plan.Cells, uint32(cell*s.work.CellSize/s.work.ParcelSize)):
		return sidecar.LeftLost
	case d.incremental():
		return sidecar.LeftSame
	}
	return sidecar.LeftHole
}

func (s *state) planDisk(n uint32, c events.ChangesResolved) {
	d := &s.disks[n]
	d.plan, d.planned, d.left = c, true, c.Parcels
	d.read = c.ReadBytes
	if left := points.HoleBytes(s.work, int(n), c.Cells); d.incremental() {
		d.unchanged += left
	} else {
		d.zero += left
	}
	for k := range s.work.Parcels(int(n)) {
		switch {
		case !d.has(k):
		case bit(c.Cells, k):
			d.left--
		default:
			s.fail(s.work.Disks[n].Guest, s.unplanned(n, k))
		}
	}
}

// missing lists parcels of a guest's plan that have not come: the first time, once
// more because what they had has gone, and the second time of those that are read
// twice. There are at most limit of each kind.
func (s *state) missing(guest uint32, limit int) []asks.Parcels {
	first, stale, twice := asks.Parcels{Guest: guest}, asks.Parcels{Guest: guest, Fresh: true}, asks.Parcels{Guest: guest, Pass: flow.PassRecheck}
	add := func(to *asks.Parcels, disk int, k uint32) {
		if len(to.List) < limit {
			to.List = append(to.List, flow.RecheckEntry{Disk: uint32(disk), Number: k})
		}
	}
	for i := range s.disks {
		d := &s.disks[i]
		if s.work.Disks[i].Guest != guest || !d.planned || d.left == 0 && d.again == 0 {
			continue
		}
		for k := range s.work.Parcels(i) {
			if _, came := d.second[k]; bit(d.twice, k) && !came {
				add(&twice, i, k)
			}
			if !bit(d.plan.Cells, k) || d.has(k) {
				continue
			}
			if _, again := d.stale[k]; again {
				add(&stale, i, k)
			} else {
				add(&first, i, k)
			}
		}
	}
	return slices.DeleteFunc([]asks.Parcels{first, stale, twice}, func(p asks.Parcels) bool { return len(p.List) == 0 })
}
