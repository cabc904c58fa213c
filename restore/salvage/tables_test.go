package salvage

import (
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

func ref(n byte) events.TableRef { return events.TableRef{Name: id.Object{n}} }

// Facts go one step each, snapshots any number of them; who tells of a circle is
// not followed for ever.
func TestNewestTable(t *testing.T) {
	s := newSuccessors()
	s.told[ref(1).Name] = ref(2)
	s.told[ref(2).Name] = ref(3)
	s.saved[ref(4).Name] = ref(5) // 4 was 5 later, by facts that are lost
	s.told[ref(5).Name] = ref(6)
	s.told[ref(7).Name] = ref(8)
	s.saved[ref(7).Name] = ref(9) // by way of 8
	s.told[ref(10).Name] = ref(11)
	s.told[ref(11).Name] = ref(10)
	for from, want := range map[byte]byte{1: 3, 2: 3, 3: 3, 4: 6, 7: 9, 12: 12, 0: 0} {
		if got := s.newest(ref(from)); got != ref(want) {
			t.Errorf("table %d is %d now, want %d", from, got.Name[0], want)
		}
	}
	s.newest(ref(10)) // ends
	was := []events.PointDisk{{Chunks: []events.TableRef{ref(3), ref(1)}}}
	now, changed := s.disks(was)
	if !changed || now[0].Chunks[0] != ref(3) || now[0].Chunks[1] != ref(3) || was[0].Chunks[1] != ref(1) {
		t.Errorf("%v is %v now", was, now)
	}
	if _, changed := s.disks(now); changed {
		t.Error("the newest has changed once more")
	}
}
