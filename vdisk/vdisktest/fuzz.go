package vdisktest

import (
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
)

// Touch does with an image from hostile bytes what a reader does: it maps the
// disk and reads a little of each extent. Errors are fine; a map that is none,
// and a zero extent that is not zero, are not. An image that is very large is
// mapped where it begins and ends.
func Touch(t *testing.T, m vdisk.Image) {
	const much = 1 << 40
	spans := [][2]int64{{0, m.Size()}}
	if m.Size() > much {
		spans = [][2]int64{{0, much}, {m.Size() - much, m.Size()}}
	}
	p := make([]byte, 100)
	for _, s := range spans {
		extents, err := Collect(m.Extents(t.Context(), s[0], s[1]))
		if err != nil {
			continue
		}
		if err := Cover(extents, s[0], s[1]); err != nil {
			t.Fatal(err)
		}
		for _, e := range extents[:min(len(extents), 100)] {
			for _, off := range []int64{e.Offset, max(e.Offset, e.End()-50)} {
				n, _ := m.ReadAt(p, off)
				for i, c := range p[:min(int64(n), e.End()-off)] {
					if c != 0 && e.Kind == vdisk.Zero {
						t.Fatalf("byte %d in zero extent %+v is %#x", off+int64(i), e, c)
					}
				}
			}
		}
	}
}
