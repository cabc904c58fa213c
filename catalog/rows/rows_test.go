package rows

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/catalog/spill"
)

func newLog(t *testing.T) *spill.Log {
	t.Helper()
	l, err := spill.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func randomRow(rnd *rand.Rand) Row {
	r := Row{Offset: rnd.Uint32(), Length: rnd.Uint32(), Zero: rnd.IntN(4) == 0}
	if !r.Zero {
		r.From, r.Pack, r.At, r.Stored, r.Raw = rnd.Uint32(), rnd.Uint32(), rnd.Uint32(), rnd.Uint32(), rnd.Uint32()
		for i := range r.Chunk {
			r.Chunk[i] = byte(rnd.Uint32())
		}
	}
	return r
}

// TestRowsComeBackInTheOrderOfTheDisk, of two disks that share a log, more parcels
// than are held in memory.
func TestRowsComeBackInTheOrderOfTheDisk(t *testing.T) {
	log := newLog(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	disks := []Disk{NewDisk(log), NewDisk(log)}
	want := []map[uint32][]Row{{}, {}}
	order := rnd.Perm(3 * parcelBudget / parcelBytes)
	for _, n := range order {
		d := rnd.IntN(2)
		var coded []byte
		for range rnd.IntN(4) {
			r := randomRow(rnd)
			want[d][uint32(n)] = append(want[d][uint32(n)], r)
			coded = Append(coded, r)
		}
		if err := disks[d].Put(uint32(n), coded); err != nil {
			t.Fatal(err)
		}
	}
	for d := range disks {
		last, seen := int64(-1), 0
		for p, err := range disks[d].All() {
			if err != nil {
				t.Fatal(err)
			}
			if int64(p.Number) <= last || !slices.Equal(slices.Collect(p.Rows()), want[d][p.Number]) {
				t.Fatalf("disk %d, parcel %d after %d: not the rows that were put", d, p.Number, last)
			}
			last = int64(p.Number)
			seen++
		}
		if seen != len(want[d]) {
			t.Errorf("disk %d: %d parcels, want %d", d, seen, len(want[d]))
		}
	}
}

// some is a digest.
func some(n uint64) Digest { return Digest{1, byte(n), byte(n >> 8)} }

func TestDigests(t *testing.T) {
	x, err := CreateDigests(filepath.Join(t.TempDir(), "digests"))
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for _, n := range []uint64{900, 3, 1 << 22} {
		if err := x.Put(n, some(n)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []uint64{3, 900, 1 << 22} {
		if d, err := x.Get(n); err != nil || d != some(n) {
			t.Errorf("parcel %d: %x, %v", n, d, err)
		}
	}
	if _, err := x.Get(901); err == nil {
		t.Error("a digest that was not put")
	}
	_, _ = x.f.WriteAt([]byte{1}, 3*digestBytes+5)
	if _, err := x.Get(3); !errors.Is(err, spill.ErrDamaged) {
		t.Errorf("a flipped digest: %v", err)
	}
}
