package known

import (
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/id"
)

// Point is the point that a guest is compared with: the one that is asked for, if there is
// such, else the guest's newest. nil: there is none.
func Point(s *catalog.State, guest id.Guest, asked id.Point) *catalog.Point {
	known := s.Guests[guest]
	if p := s.Points[asked]; p != nil || known == nil || len(known.Points) == 0 {
		return p
	}
	return known.Points[len(known.Points)-1]
}
