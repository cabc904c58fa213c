package gather

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

type disk struct {
	b      []byte
	writes int
	broken error
}

func (d *disk) WriteAt(b []byte, at int64) (int, error) {
	d.writes++
	return copy(d.b[at:], b), d.broken
}

// Whatever pieces come, and in whatever order, each is written where it belongs, and
// nothing where there is none, though the memory held other things before.
func TestEveryPieceIsWritten(t *testing.T) {
	const window, block = 1 << 20, 4096
	rnd := rand.New(rand.NewPCG(1, 1))
	d := &disk{b: make([]byte, 4*window)}
	want := make([]byte, len(d.b))
	w := New(d)
	pieces := 0
	for n := range int64(4) {
		var at []int64
		for k := int64(0); k < window; k += block {
			if rnd.IntN(6) > 0 {
				at = append(at, n*window+k)
			}
		}
		rnd.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
		w.Begin(at[0], window)
		b := make([]byte, block)
		for _, a := range at {
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			copy(want[a:], b)
			if err := w.Put(a, b); err != nil {
				t.Fatal(err)
			}
			pieces++
		}
		if err := w.End(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(d.b, want) {
		t.Fatal("the disk is another")
	}
	if d.writes > pieces/3 {
		t.Errorf("%d writes for %d pieces", d.writes, pieces)
	}
}

// A long run is written in pieces that end at multiples of the longest write, which
// keeps all but its ends fit to go past the page cache.
func TestRunsAreCutAtFixedPlaces(t *testing.T) {
	const window = 8 << 20
	d := &disk{b: make([]byte, window)}
	w := New(d)
	w.Begin(0, window)
	b := bytes.Repeat([]byte{7}, 60_001) // no cutter's length
	for at := int64(0); at+int64(len(b)) <= window; at += int64(len(b)) {
		if err := w.Put(at, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.End(); err != nil || d.writes != window/most {
		t.Errorf("%v, %d writes", err, d.writes)
	}
}

// A piece that lies elsewhere is written when it comes; a write that fails is told.
func TestPieceBeyondTheWindow(t *testing.T) {
	d := &disk{b: make([]byte, 4<<20)}
	w := New(d)
	w.Begin(0, 1<<20)
	if err := w.Put(1<<20-1, []byte("xy")); err != nil || d.writes != 1 || d.b[1<<20] != 'y' {
		t.Errorf("%v, %d writes", err, d.writes)
	}
	d.broken = errors.New("full")
	if err := errors.Join(w.Put(5, []byte("x")), w.End()); !errors.Is(err, d.broken) {
		t.Error("a write that failed is not told:", err)
	}
}
