// Package vdisktest holds every disk image to the promises in the comment of
// vdisk.Image, and has an image in memory for tests that need one.
//
// Call [Run] from a test of a format, with the image and the bytes it must
// have. [Sparse] is both a reference to compare with and a disk for tests of
// other packages: terabytes of it cost nothing until they are written.
package vdisktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
)

// Run holds m to every promise of vdisk.Image. want has the disk's bytes and
// exactly its size; it may be read in parallel. The seed of the random reads
// is fixed, so a failure repeats.
func Run(t *testing.T, m vdisk.Image, want vdisk.Image) {
	t.Helper()
	RunSlow(t, m, want)
	t.Run("reads do not allocate", func(t *testing.T) { testAllocs(t, m) })
}

// RunSlow is Run for an image whose reads may allocate, because it is compressed.
func RunSlow(t *testing.T, m vdisk.Image, want vdisk.Image) {
	t.Helper()
	if m.Size() != want.Size() {
		t.Fatalf("size %d, want %d", m.Size(), want.Size())
	}
	t.Run("extents cover the disk and zeros are zeros", func(t *testing.T) { testCover(t, m, want) })
	t.Run("random reads", func(t *testing.T) { testReads(t, m, want, 1, 200) })
	t.Run("parallel reads and maps", func(t *testing.T) { testParallel(t, m, want) })
	t.Run("parts of the map agree with the whole", func(t *testing.T) { testParts(t, m) })
	t.Run("end of disk", func(t *testing.T) { testEnd(t, m, want) })
	t.Run("ranges outside the disk", func(t *testing.T) { testOutside(t, m) })
	t.Run("a map ends with its context", func(t *testing.T) { testCancel(t, m) })
	t.Run("a map may be left early", func(t *testing.T) { testBreak(t, m) })
}

// Collect returns all extents of a range.
func Collect(seq iter.Seq2[vdisk.Extent, error]) ([]vdisk.Extent, error) {
	var all []vdisk.Extent
	for e, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

// Cover returns an error unless extents are a map of from..to as
// vdisk.Image.Extents promises it.
func Cover(extents []vdisk.Extent, from, to int64) error {
	at := from
	for i, e := range extents {
		switch {
		case e.Offset != at:
			return fmt.Errorf("extent %d begins at %d, want %d", i, e.Offset, at)
		case e.Length <= 0:
			return fmt.Errorf("extent %d at %d has length %d", i, e.Offset, e.Length)
		case e.Kind != vdisk.Data && e.Kind != vdisk.Zero:
			return fmt.Errorf("extent %d at %d has %v", i, e.Offset, e.Kind)
		case i > 0 && extents[i-1].Kind == e.Kind:
			return fmt.Errorf("extents %d and %d at %d are both %v", i-1, i, e.Offset, e.Kind)
		}
		at = e.End()
	}
	if at != to {
		return fmt.Errorf("extents end at %d, want %d", at, to)
	}
	return nil
}

// Equal returns an error that names the first offset at which a and b differ
// between from and to.
func Equal(a, b io.ReaderAt, from, to int64) error {
	const step = 1 << 20
	x, y := make([]byte, min(step, to-from)), make([]byte, min(step, to-from))
	for off := from; off < to; off += step {
		n := min(step, to-off)
		if err := fill(a, x[:n], off); err != nil {
			return err
		}
		if err := fill(b, y[:n], off); err != nil {
			return fmt.Errorf("reference: %w", err)
		}
		if bytes.Equal(x[:n], y[:n]) {
			continue
		}
		for i := range x[:n] {
			if x[i] != y[i] {
				return fmt.Errorf("byte %d is %#02x, want %#02x", off+int64(i), x[i], y[i])
			}
		}
	}
	return nil
}

func fill(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) || err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %d bytes at %d: got %d: %w", len(p), off, n, err)
	}
	return nil
}

// testCover reads the data extents of both disks and, of the zero extents,
// what the other disk has there: a hole in one must be zeros in the other.
func testCover(t *testing.T, m, want vdisk.Image) {
	for _, side := range []struct {
		name string
		a, b vdisk.Image
	}{{"image", m, want}, {"reference", want, m}} {
		extents, err := Collect(side.a.Extents(t.Context(), 0, side.a.Size()))
		if err != nil {
			t.Fatalf("%s: %v", side.name, err)
		}
		if err := Cover(extents, 0, side.a.Size()); err != nil {
			t.Errorf("%s: %v", side.name, err)
		}
		for _, e := range extents {
			if e.Kind == vdisk.Data {
				if err := Equal(m, want, e.Offset, e.End()); err != nil {
					t.Fatal(err)
				}
			} else if err := isZero(t.Context(), m, want, e); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// isZero compares what either disk calls data inside a hole, and the edges of
// the hole, with zeros.
func isZero(ctx context.Context, m, want vdisk.Image, hole vdisk.Extent) error {
	const edge = 1 << 16
	zeros := NewSparse(hole.End())
	for _, side := range []vdisk.Image{m, want} {
		for e, err := range side.Extents(ctx, hole.Offset, hole.End()) {
			if err != nil {
				return err
			}
			spans := [][2]int64{{e.Offset, e.End()}}
			if e.Kind == vdisk.Zero {
				spans = [][2]int64{{e.Offset, min(e.End(), e.Offset+edge)}, {max(e.Offset, e.End()-edge), e.End()}}
			}
			for _, s := range spans {
				if err := Equal(side, zeros, s[0], s[1]); err != nil {
					return fmt.Errorf("zero extent %d..%d: %w", hole.Offset, hole.End(), err)
				}
			}
		}
	}
	return nil
}

// testReads reads at random places, every other time around an edge of the
// reference's map: on a large disk nothing else would meet data.
func testReads(t *testing.T, m, want vdisk.Image, seed uint64, count int) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	edges, err := Collect(want.Extents(t.Context(), 0, want.Size()))
	if err != nil {
		t.Error(err)
		return
	}
	got, ref := make([]byte, 3<<20), make([]byte, 3<<20)
	poison := bytes.Repeat([]byte{0xDB}, len(got))
	for i := range count {
		off := rnd.Int64N(m.Size() + 1)
		if i%2 == 0 && len(edges) > 0 {
			off = max(0, edges[rnd.IntN(len(edges))].End()-rnd.Int64N(1<<20))
		}
		n := rnd.IntN([]int{2, 600, 5000, 1 << 17, len(got)}[rnd.IntN(5)])
		copy(got[:n], poison) // a hole must be cleared, not skipped
		gn, gerr := m.ReadAt(got[:n], off)
		rn, _ := want.ReadAt(ref[:n], off)
		if gn != rn || !bytes.Equal(got[:gn], ref[:rn]) {
			t.Errorf("read %d bytes at %d: got %d bytes (%v), want %d; equal %v", n, off, gn, gerr, rn, bytes.Equal(got[:gn], ref[:rn]))
			return
		}
		if gn < n && !errors.Is(gerr, io.EOF) || gn == n && gerr != nil && !errors.Is(gerr, io.EOF) {
			t.Errorf("read %d bytes at %d: %d, %v", n, off, gn, gerr)
			return
		}
	}
}

func testParallel(t *testing.T, m, want vdisk.Image) {
	whole, err := Collect(m.Extents(t.Context(), 0, m.Size()))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { testReads(t, m, want, uint64(10+i), 50) })
		wg.Go(func() {
			again, err := Collect(m.Extents(t.Context(), 0, m.Size()))
			if err != nil || len(again) != len(whole) {
				t.Errorf("map beside other maps: %d extents, want %d: %v", len(again), len(whole), err)
			}
		})
	}
	wg.Wait()
}

// testParts maps random ranges and looks each piece up in the whole map.
func testParts(t *testing.T, m vdisk.Image) {
	whole, err := Collect(m.Extents(t.Context(), 0, m.Size()))
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(2, 0))
	for range 100 {
		from := rnd.Int64N(m.Size() + 1)
		to := from + rnd.Int64N(min(m.Size()-from, 1<<uint(10+rnd.IntN(30)))+1)
		part, err := Collect(m.Extents(t.Context(), from, to))
		if err != nil {
			t.Fatalf("map %d..%d: %v", from, to, err)
		}
		if err := Cover(part, from, to); err != nil {
			t.Fatalf("map %d..%d: %v", from, to, err)
		}
		i := 0
		for _, e := range part {
			for whole[i].End() <= e.Offset {
				i++
			}
			if w := whole[i]; w.Kind != e.Kind || w.End() < e.End() {
				t.Fatalf("map %d..%d has %+v, the whole map %+v", from, to, e, w)
			}
		}
	}
}

func testEnd(t *testing.T, m, want vdisk.Image) {
	size := m.Size()
	tail := min(size, 777)
	ref := make([]byte, tail)
	if err := fill(want, ref, size-tail); err != nil {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte{0xDB}, int(tail)+100)
	n, err := m.ReadAt(p, size-tail)
	if int64(n) != tail || !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], ref) {
		t.Errorf("read across the end: %d, %v; want %d, EOF; equal %v", n, err, tail, bytes.Equal(p[:min(n, len(ref))], ref))
	}
	if n, err := m.ReadAt(p[:tail], size-tail); int64(n) != tail || err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("read up to the end: %d, %v", n, err)
	}
	for _, off := range []int64{size, size + 1, size + 1<<40} {
		if n, err := m.ReadAt(p, off); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("read at %d of %d: %d, %v; want 0, EOF", off, size, n, err)
		}
	}
	if n, err := m.ReadAt(nil, 0); n != 0 || err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("empty read: %d, %v", n, err)
	}
	if n, err := m.ReadAt(p, -1); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read at -1: %d, %v; want an error that is not EOF", n, err)
	}
}

func testOutside(t *testing.T, m vdisk.Image) {
	size := m.Size()
	for _, r := range [][2]int64{{-1, size}, {0, size + 1}, {size, size - 1}, {size + 1, size + 2}} {
		if r[1] < 0 {
			continue
		}
		if e, err := Collect(m.Extents(t.Context(), r[0], r[1])); err == nil || len(e) > 0 {
			t.Errorf("map %d..%d of %d: %v, %v; want an error and no extent", r[0], r[1], size, e, err)
		}
	}
	if e, err := Collect(m.Extents(t.Context(), size, size)); len(e) > 0 || err != nil {
		t.Errorf("empty map at the end: %v, %v", e, err)
	}
}

func testCancel(t *testing.T, m vdisk.Image) {
	if m.Size() == 0 {
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Collect(m.Extents(ctx, 0, m.Size())); !errors.Is(err, context.Canceled) {
		t.Errorf("map with an ended context: %v", err)
	}
}

func testBreak(t *testing.T, m vdisk.Image) {
	for range 3 {
		for range m.Extents(t.Context(), 0, m.Size()) {
			break // an iterator that yields again after this panics
		}
	}
}

func testAllocs(t *testing.T, m vdisk.Image) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p := make([]byte, 1<<16)
	off := int64(0)
	for n := int64(0); n < m.Size() && n < 1<<32; n += 1 << 20 { // what is loaded on first use
		_, _ = m.ReadAt(p[:1], n)
	}
	if n := testing.AllocsPerRun(100, func() {
		_, _ = m.ReadAt(p, off)
		off = (off + 1<<20 + 512) % max(1, min(m.Size(), 1<<32)-int64(len(p)))
	}); n > 0 {
		t.Errorf("a read allocates %v times", n)
	}
}
