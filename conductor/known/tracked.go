package known

import (
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/points"
	"github.com/millrace-backup/millrace/hypervisor"
)

// Tracked reports whether changes of all disks have been tracked since the guests' newest
// points. That a tracker cannot be believed after all is found out later: it is for sizes
// only.
func Tracked(c *catalog.State, guests []hypervisor.Guest) bool {
	if c == nil {
		return false
	}
	for _, g := range guests {
		is := c.Guests[g.ID]
		if is == nil || len(is.Points) == 0 {
			return false
		}
		newest := &is.Points[len(is.Points)-1].PointCommitted
		for _, d := range g.Disks {
			if len(points.Since(newest, d.ID)) == 0 {
				return false
			}
		}
	}
	return len(guests) > 0
}
