package parallel

import "testing"

const mib = 1 << 20

func TestRoom(t *testing.T) {
	for name, c := range map[string]struct {
		room        Room
		cell        int64
		remote      bool
		parcel      int64
		raw, sealed int
	}{
		"two processors":     {Room{Workers: Default(2)}, 4 * mib, false, 8 * mib, 6, 12},
		"a little memory":    {Room{Workers: Default(2), Memory: 64 * mib}, 4 * mib, false, 4 * mib, 3, 12},
		"least memory":       {Room{Workers: Default(2), Memory: 16 * mib}, 4 * mib, false, 4 * mib, 1, 2},
		"tracked":            {Room{Workers: Default(2), Tracked: true}, 4 * mib, false, 16 * mib, 6, 12},
		"tracked, less":      {Room{Workers: Default(2), Tracked: true, Memory: 256 * mib}, 4 * mib, false, 8 * mib, 6, 12},
		"tracked, least":     {Room{Workers: Default(2), Tracked: true, Memory: 16 * mib}, 4 * mib, false, 4 * mib, 1, 2},
		"in messages":        {Room{Workers: Default(2), Inline: true}, 4 * mib, false, 4 * mib, 4, 8},
		"on other machines":  {Room{Workers: Default(2)}, 4 * mib, true, 4 * mib, 8, 24},
		"large cells":        {Room{Workers: Default(2)}, 16 * mib, false, 16 * mib, 6, 12},
		"sixteen processors": {Room{Workers: Default(16)}, 4 * mib, false, 8 * mib, 15, 28},
	} {
		parcel := c.room.Parcel(c.cell, c.remote)
		s := c.room.Shape(parcel, 1<<40)
		if parcel != c.parcel || s.RawSlots != c.raw || s.SealedSlots != c.sealed || int64(s.RawSize) != parcel || s.RecentEntries != 1<<21 {
			t.Errorf("%s: parcels of %d, %+v", name, parcel, s)
		}
		if c.room.Memory > 0 && int64(s.RawSlots*s.RawSize+s.SealedSlots*s.SealedSize) > c.room.Memory {
			t.Errorf("%s: more than there is: %+v", name, s)
		}
	}
}
