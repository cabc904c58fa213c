package journal

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// spoilt is an entry in which something was changed, with a checksum that is right.
func spoilt(e Entry, change func(b []byte)) []byte {
	b := e.Bytes()
	change(b)
	binary.LittleEndian.PutUint32(b[4:], 0)
	binary.LittleEndian.PutUint32(b[4:], layout.Checksum(b))
	return b
}

// Of a log with two entries, the second of which is changed so that it breaks one rule of
// section 2.3, the first alone is replayed, or none.
func TestRules(t *testing.T) {
	const second = 2 * layout.SectorSize // each entry is a head and a sector
	le := binary.LittleEndian
	first := Entry{GUID: testGUID(), Sequence: 5<<32 + 7, Sectors: sectors(1)}
	next := Entry{GUID: testGUID(), Sequence: first.Sequence + 1, Sectors: sectors(1)}
	for name, c := range map[string]struct {
		next Entry
		b    func(b []byte)
		want []uint64 // sequence numbers
	}{
		"as it should be":                       {next, func([]byte) {}, []uint64{first.Sequence, next.Sequence}},
		"an entry of its own":                   {Entry{GUID: testGUID(), Sequence: next.Sequence, Tail: uint32(second), Sectors: next.Sectors}, func([]byte) {}, []uint64{next.Sequence}},
		"a number is left out":                  {Entry{GUID: testGUID(), Sequence: next.Sequence + 1, Sectors: next.Sectors}, func([]byte) {}, []uint64{first.Sequence}},
		"the same number":                       {Entry{GUID: testGUID(), Sequence: first.Sequence, Sectors: next.Sectors}, func([]byte) {}, []uint64{first.Sequence}},
		"a tail inside an entry":                {Entry{GUID: testGUID(), Sequence: next.Sequence, Tail: uint32(layout.SectorSize), Sectors: next.Sectors}, func([]byte) {}, nil},
		"a tail beside a sector":                {next, func(b []byte) { le.PutUint32(b[12:], 8) }, []uint64{first.Sequence}},
		"a tail behind it":                      {Entry{GUID: testGUID(), Sequence: next.Sequence, Tail: uint32(2 * second), Sectors: next.Sectors}, func([]byte) {}, nil},
		"another log's":                         {Entry{GUID: layout.GUID{9}, Sequence: next.Sequence, Sectors: next.Sectors}, func([]byte) {}, []uint64{first.Sequence}},
		"a descriptor of another entry":         {next, func(b []byte) { le.PutUint64(b[64+24:], first.Sequence) }, []uint64{first.Sequence}},
		"a sector of another entry, low word":   {next, func(b []byte) { le.PutUint32(b[layout.SectorSize+4092:], uint32(first.Sequence)) }, []uint64{first.Sequence}},
		"a sector of another entry, high word":  {next, func(b []byte) { le.PutUint32(b[layout.SectorSize+4:], 4) }, []uint64{first.Sequence}},
		"a sector without its mark":             {next, func(b []byte) { copy(b[layout.SectorSize:], "date") }, []uint64{first.Sequence}},
		"a descriptor of an unknown kind":       {next, func(b []byte) { copy(b[64:], "none") }, []uint64{first.Sequence}},
		"more descriptors than it has room for": {next, func(b []byte) { le.PutUint32(b[24:], 300) }, []uint64{first.Sequence}},
		"fewer sectors than descriptors":        {next, func(b []byte) { le.PutUint32(b[24:], 2); copy(b[96:128], b[64:96]) }, []uint64{first.Sequence}},
		"a length that is no sectors":           {next, func(b []byte) { le.PutUint32(b[8:], uint32(len(b)-8)) }, []uint64{first.Sequence}},
	} {
		ring := make([]byte, 64<<10)
		copy(ring, first.Bytes())
		copy(ring[second:], spoilt(c.next, c.b))
		active, err := newRing(ring, testGUID()).active()
		var got []uint64
		for _, e := range active {
			got = append(got, e.sequence)
		}
		if !slices.Equal(got, c.want) || (err == nil) != (len(c.want) > 0) || err != nil && !errors.Is(err, vdisk.ErrFormat) {
			t.Errorf("%s: %d, %v; want %d", name, got, err, c.want)
		}
	}
	// Zero is no number: such an entry is one that was never written.
	none := Entry{GUID: testGUID(), Sectors: sectors(1)}
	if _, err := newRing(ringOf(64<<10, 0, none), testGUID()).active(); !errors.Is(err, vdisk.ErrFormat) {
		t.Errorf("number 0: %v", err)
	}
}
