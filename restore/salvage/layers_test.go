package salvage

import (
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/restore"
)

// TestOnTop compares with a disk painted byte by byte.
func TestOnTop(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var disk [64]byte
		var layers []layer
		for range rnd.IntN(12) {
			at := rnd.IntN(60)
			l := layer{restore.Range{Offset: int64(at), Length: int64(1 + rnd.IntN(64-at))}, rnd.IntN(3) == 0}
			layers = append(layers, l)
			for i := range l.Length {
				disk[l.Offset+i] = 1
				if l.lost {
					disk[l.Offset+i] = 2
				}
			}
		}
		covered, lost := onTop(layers)
		var n int64
		for _, b := range disk {
			if b == 1 {
				n++
			}
		}
		if covered != n {
			t.Fatalf("%v: %d bytes covered, not %d", layers, covered, n)
		}
		end := int64(-1)
		for _, r := range lost {
			if r.Offset <= end {
				t.Fatalf("%v: %v are not in order and apart", layers, lost)
			}
			end = r.Offset + r.Length
			for i := range r.Length {
				if disk[r.Offset+i] != 2 {
					t.Fatalf("%v: byte %d is not lost: %v", layers, r.Offset+i, lost)
				}
				disk[r.Offset+i] = 0
			}
		}
		for i, b := range disk {
			if b == 2 {
				t.Fatalf("%v: byte %d is lost and not listed: %v", layers, i, lost)
			}
		}
	}
}
