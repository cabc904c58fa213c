package overlay

import (
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

const sectorSize = 4096

func random(seed uint64, n int64) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rnd.Read(b)
	return b
}

// The whole contract of an image, with changes across holes, data and the end.
func TestImage(t *testing.T) {
	file, want := vdisktest.NewSparse(100*sectorSize), vdisktest.NewSparse(130*sectorSize)
	var changes []Patch
	put := func(off int64, b []byte) {
		if _, err := want.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	for _, off := range []int64{0, 5, 6, 40, 99} {
		b := random(uint64(off), sectorSize)
		put(off*sectorSize, b)
		if _, err := file.WriteAt(b, off*sectorSize); err != nil {
			t.Fatal(err)
		}
	}
	for _, off := range []int64{5, 50, 98, 99, 110} {
		b := random(1000+uint64(off), 2*sectorSize)
		put(off*sectorSize, b)
		changes = append(changes, Patch{off * sectorSize, (off + 2) * sectorSize, b})
	}
	put(40*sectorSize, make([]byte, 10*sectorSize))
	changes = append(changes, Patch{Offset: 40 * sectorSize, End: 50 * sectorSize})
	vdisktest.Run(t, New(file, 130*sectorSize, changes), want)
	vdisktest.Run(t, New(file, 0, nil), file)
}

// TestSettle compares the cut patches with writing all changes in order.
func TestSettle(t *testing.T) {
	const sectors = 64
	rnd := rand.New(rand.NewPCG(4, 4))
	for round := range 300 {
		want := vdisktest.FromBytes(random(9, sectors*sectorSize))
		file := vdisktest.FromBytes(random(9, sectors*sectorSize))
		var list []Patch
		for range rnd.IntN(20) {
			off := rnd.Int64N(sectors) * sectorSize
			p := Patch{off, off + sectorSize, random(rnd.Uint64(), sectorSize)}
			if rnd.IntN(2) == 0 {
				p = Patch{Offset: off, End: off + (rnd.Int64N(sectors-off/sectorSize)+1)*sectorSize}
			}
			list = append(list, p)
			b := p.Data
			if b == nil {
				b = make([]byte, p.End-p.Offset)
			}
			if _, err := want.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
		v := New(file, 0, list)
		for i := 1; i < len(v.patches); i++ {
			if v.patches[i].Offset < v.patches[i-1].End {
				t.Fatalf("round %d: patches overlap", round)
			}
		}
		if err := vdisktest.Equal(v, want, 0, want.Size()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for range 20 {
			from := rnd.Int64N(want.Size())
			to := from + rnd.Int64N(want.Size()-from)
			if err := vdisktest.Equal(v, want, from, to); err != nil {
				t.Fatalf("round %d, %d..%d: %v", round, from, to, err)
			}
		}
	}
}
