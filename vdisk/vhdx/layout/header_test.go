package layout

import (
	"errors"
	"math"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// The header with the higher number is the one that counts, in whichever place it is; one
// that is torn does not count, however high its number.
func TestNewestHeader(t *testing.T) {
	for _, c := range []struct {
		one, two uint64
		torn     int // place of a header with a byte that was not written
		want     int64
	}{
		{5, 4, 0, HeaderAt1}, {4, 5, 0, HeaderAt2}, {9, 4, 0, HeaderAt1}, {4, 9, 0, HeaderAt2},
		{math.MaxUint64, 0, 0, HeaderAt1}, {0, math.MaxUint64, 0, HeaderAt2}, {1 << 32, 1<<32 - 1, 0, HeaderAt1},
		{5, 4, 1, HeaderAt2}, {4, 5, 2, HeaderAt1}, {5, 4, 2, HeaderAt1}, {4, 5, 1, HeaderAt2},
	} {
		file := vdisktest.NewSparse(4 * MiB)
		_, _ = file.WriteAt([]byte("vhdxfile"), 0) // never fails
		_, _ = file.WriteAt(Header{Sequence: c.one, Version: 1, DataWrite: GUID{1}}.Bytes(), HeaderAt1)
		_, _ = file.WriteAt(Header{Sequence: c.two, Version: 1, DataWrite: GUID{2}}.Bytes(), HeaderAt2)
		if c.torn > 0 {
			_, _ = file.WriteAt([]byte{0xFF}, []int64{0, HeaderAt1, HeaderAt2}[c.torn]+HeaderSize-1)
		}
		h, err := ReadHeader(file)
		if err != nil || h.At != c.want || h.DataWrite != (GUID{byte(c.want / HeaderAt1)}) {
			t.Errorf("%d and %d, torn %d: header at %d, %v; want that at %d", c.one, c.two, c.torn, h.At, err, c.want)
		}
	}
}

// Every item and every string lies where it may, or is refused: to the byte.
func TestBounds(t *testing.T) {
	locator := Locator{Linkage: GUID{1}, Relative: `.\base.vhdx`}.bytes()
	entries := int(le16(locator[18:]))
	if _, err := parseLocator(locator); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"its last string ends a unit behind it": func(b []byte) []byte { return b[:len(b)-2] },
		"its last string ends a byte behind it": func(b []byte) []byte { return b[:len(b)-1] },
		"a value lies in the head": func(b []byte) []byte {
			put32(b[locatorHeader+(entries-1)*locatorEntry+4:], 2)
			put16(b[locatorHeader+(entries-1)*locatorEntry+10:], 8)
			return b
		},
		"a string is half a unit long":          func(b []byte) []byte { put16(b[locatorHeader+8:], le16(b[locatorHeader+8:])-1); return b },
		"a string begins at the end of all":     func(b []byte) []byte { put32(b[locatorHeader:], math.MaxUint32); return b },
		"one entry more than there is room for": func(b []byte) []byte { return b[:locatorHeader+entries*locatorEntry-1] },
		"a string that is not there, a key's":   func(b []byte) []byte { put16(b[locatorHeader+8:], 0); return b },
		"entries to the end of all, as it says": func(b []byte) []byte { put16(b[18:], math.MaxUint16); return b },
	} {
		if _, err := parseLocator(change(append([]byte(nil), locator...))); !errors.Is(err, vdisk.ErrFormat) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}
