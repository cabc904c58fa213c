package parallel

import (
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
)

// usual is the size of a cell and of the parcels that the numbers of slots are for.
const usual = 4 << 20

// Room is what the size of a job's parcels and of its arena depends on.
type Room struct {
	Workers map[string]int // per stage
	Memory  int64          // bytes the arena may have; 0: as many as it needs
	Inline  bool           // bytes travel in messages
	Tracked bool           // changes of all disks are known, as far as can be told
}

// Parcel is how much travels together where nobody says: two cells, which halves what
// messages cost, where memory has a slot of that size for each who reads or works on
// raw bytes; one where the bytes are in messages, since a server holds many of
// those. Cells that are larger than usual are parcels enough. Where changes are tracked
// little is read of each parcel: of twice the size one still has less in it, and that
// makes packs larger too, of which a slot each is held for every parcel.
func (r Room) Parcel(cell int64, remote bool) int64 {
	if r.Inline || remote || cell > usual {
		return cell
	}
	cells := int64(2)
	if r.Tracked {
		cells = 4
	}
	for r.Memory > 0 && cells > 1 && r.Memory/int64(arena.SealedSize(int(cells*cell)))/4 < int64(r.readers()) {
		cells /= 2
	}
	return cells * cell
}

// readers counts the workers that have a slot of raw bytes in hand, and two that wait.
func (r Room) readers() int {
	return r.Workers[flow.Reader] + r.Workers[flow.Chunker] + r.Workers[flow.Seal] + 2
}

// Shape sizes the arena for parcels and disks of so many bytes: slots to read into,
// and enough sealed ones that a whole pack can be held until it is durable.
func (r Room) Shape(parcel, disks int64) arena.Shape {
	raw, sealed := int(parcel), arena.SealedSize(int(parcel))
	// As many bytes whatever the parcels, within reason: larger ones need fewer slots.
	scale := func(n int) int { return max(n/2, n*usual/max(raw, usual)) }
	s := arena.Shape{
		RawSize: raw, SealedSize: sealed,
		RawSlots:    max(scale(max(8, 2*r.readers()-4)), r.readers()),
		SealedSlots: scale(max(24, 4*r.Workers[flow.Seal]+16*r.Workers[flow.Uploader])),
	}
	if r.Inline { // a slot is free as soon as its bytes are in a message
		s.RawSlots, s.SealedSlots = max(1, 4*r.Workers[flow.Reader]), max(1, 4*r.Workers[flow.Seal])
	}
	if r.Memory > 0 {
		slots := int(r.Memory / int64(sealed))
		s.RawSlots = min(s.RawSlots, max(1, slots/4))
		s.SealedSlots = min(s.SealedSlots, max(1, slots-s.RawSlots))
	}
	s.RecentEntries = 1 << 10
	for want := min(disks/(48<<10), 1<<21); int64(s.RecentEntries) < want; {
		s.RecentEntries *= 2
	}
	return s
}
