package known

import (
	"testing"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
)

func TestTracked(t *testing.T) {
	a, b := id.Guest{1}, id.Guest{2}
	disk, other := id.Disk{1}, id.Disk{2}
	c := &catalog.State{Guests: map[id.Guest]*catalog.Guest{}}
	point := func(tokens map[id.Disk]string) *catalog.Point {
		p := &catalog.Point{}
		for d, token := range tokens {
			p.Disks = append(p.Disks, events.PointDisk{Disk: d, Token: []byte(token)})
		}
		return p
	}
	c.Guests[a] = &catalog.Guest{Points: []*catalog.Point{point(nil), point(map[id.Disk]string{disk: "x"})}}
	with := func(g id.Guest, disks ...id.Disk) (out hypervisor.Guest) {
		out.ID = g
		for _, d := range disks {
			out.Disks = append(out.Disks, hypervisor.Disk{ID: d})
		}
		return out
	}
	for name, x := range map[string]struct {
		guests []hypervisor.Guest
		want   bool
	}{
		"no guest":         {nil, false},
		"tracked":          {[]hypervisor.Guest{with(a, disk)}, true},
		"a new disk":       {[]hypervisor.Guest{with(a, disk, other)}, false},
		"another new":      {[]hypervisor.Guest{with(a, disk), with(b, disk)}, false},
		"without a medium": {[]hypervisor.Guest{with(a)}, true},
	} {
		if got := Tracked(c, x.guests); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
