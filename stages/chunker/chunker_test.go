package chunker

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow"
)

const cellSize = 1 << 20

func makeStage(t testing.TB, name string) *stage {
	t.Helper()
	params := chunk.Default()
	params.Name = name
	blocks, err := chunk.NewBlocks([32]byte{2}, int(params.Block))
	if err != nil {
		t.Fatal(err)
	}
	cutter, err := chunk.New(params, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	work := &flow.Work{CellSize: cellSize, Cutter: params, Guests: make([]flow.WorkGuest, 1), Disks: make([]flow.WorkDisk, 1)}
	return newStage(work, Tools{Cutter: cutter, IDs: chunk.NewIDs([32]byte{2}), Blocks: blocks})
}

// TestCutsDoNotDependOnParcels: the pieces of a disk are the same whatever the
// parcel size, the order of parcels and what the worker has done before.
func TestCutsDoNotDependOnParcels(t *testing.T) {
	disk := make([]byte, 7*cellSize+12345)
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 12 {
		at, n := rnd.IntN(len(disk)), rnd.IntN(cellSize)
		for i := at; i < min(at+n, len(disk)); i++ {
			disk[i] = byte(rnd.Uint32())
		}
	}
	copy(disk[5*cellSize:], disk[:cellSize]) // cells that are equal have equal cuts
	for _, name := range []string{chunk.Aligned, chunk.Fixed, chunk.FastCDC} {
		var want []flow.Piece
		for _, cells := range []int64{1, 2, 4, 8} {
			size := cells * cellSize
			parcels := int((int64(len(disk)) + size - 1) / size)
			found := make([][]flow.Piece, parcels)
			s := makeStage(t, name)
			p := &flow.Parcel{}
			for _, n := range rnd.Perm(parcels) {
				p.Number, p.Offset = uint32(n), int64(n)*size
				p.Length = min(size, int64(len(disk))-p.Offset)
				if err := s.parcel(p, disk[p.Offset:p.Offset+p.Length]); err != nil {
					t.Fatal(err)
				}
				b, err := (&flow.Message{Parcel: p}).Encode()
				if err != nil {
					t.Fatal(err)
				}
				m, err := flow.DecodeMessage(b)
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range m.Parcel.Pieces {
					x.Offset += uint32(p.Offset)
					found[n] = append(found[n], x)
				}
			}
			var got []flow.Piece
			for _, f := range found {
				got = append(got, f...)
			}
			if want == nil {
				want = got
				check(t, disk, got)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: parcels of %d cells are cut in another way", name, cells)
			}
		}
	}
}

// check holds pieces against the disk: a cover, zeros where they say so, ids of
// the bytes, no piece across a cell border.
func check(t *testing.T, disk []byte, pieces []flow.Piece) {
	t.Helper()
	ids := chunk.NewIDs([32]byte{2})
	at := uint32(0)
	for _, x := range pieces {
		b := disk[x.Offset : x.Offset+x.Length]
		if x.Offset != at || x.Offset/cellSize != (x.Offset+x.Length-1)/cellSize || x.Verdict != flow.Undecided {
			t.Fatalf("piece %+v after %d", x, at)
		}
		if x.Zero {
			for _, c := range b {
				if c != 0 {
					t.Fatalf("piece %+v is not zero", x)
				}
			}
		} else if x.Chunk != ids.ID(b) {
			t.Fatalf("piece %+v has another id", x)
		}
		at += x.Length
	}
	if int(at) != len(disk) {
		t.Fatalf("pieces end at %d of %d", at, len(disk))
	}
}

// What the reader says of where data is changes how long it takes and nothing else,
// and cells that no run touches may hold anything: reader leaves them as they were.
func TestRunsOnlySaveTime(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		b := make([]byte, 2*cellSize-rnd.IntN(3)*777)
		p := flow.Parcel{Number: 3, Offset: 6 * cellSize, Length: int64(len(b))}
		for at := rnd.IntN([]int{9000, len(b)}[seed%2]); at < len(b); {
			n := min(1+rnd.IntN([]int{10, 5000, 300_000}[rnd.IntN(3)]), len(b)-at)
			p.Runs = append(p.Runs, flow.Run{Offset: p.Offset + int64(at), Length: int64(n)})
			if rnd.IntN(4) > 0 { // data may turn out to be zeros
				for i := at; i < at+n; i++ {
					b[i] = byte(rnd.Uint32())
				}
			}
			at += n + rnd.IntN([]int{3, 5000, 500_000}[rnd.IntN(3)])
		}
		whole := p
		whole.Runs = nil
		left := bytes.Clone(b)
		for at := 0; at < len(b) && len(p.Runs) > 0; at += cellSize {
			end := min(at+cellSize, len(b))
			if !slices.ContainsFunc(p.Runs, func(r flow.Run) bool {
				return r.Offset-p.Offset < int64(end) && r.Offset-p.Offset+r.Length > int64(at)
			}) {
				copy(left[at:end], bytes.Repeat([]byte{0xdb}, end-at))
			}
		}
		for _, x := range []struct {
			parcel *flow.Parcel
			bytes  []byte
		}{{&p, left}, {&whole, b}} {
			if err := makeStage(t, chunk.Aligned).parcel(x.parcel, x.bytes); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(p, whole) {
			t.Fatalf("seed %d: with runs the parcel has sum %x and %d pieces, without %x and %d", seed, p.Sum, len(p.Pieces), whole.Sum, len(whole.Pieces))
		}
	}
}

func TestRefused(t *testing.T) {
	s := makeStage(t, chunk.Aligned)
	for name, c := range map[string]struct {
		p flow.Parcel
		n int
	}{
		"not at a cellSize": {flow.Parcel{Offset: 4096, Length: 4096}, 4096},
		"too few bytes":     {flow.Parcel{Length: 4096}, 4095},
		"too many bytes":    {flow.Parcel{Length: 4096}, 4097},
		"no bytes at all":   {flow.Parcel{Length: 4096}, 0},
	} {
		var f *flow.Fault
		if err := s.parcel(&c.p, make([]byte, c.n)); !errors.As(err, &f) || f.Class != flow.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}
