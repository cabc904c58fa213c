package spill

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func newLog(t testing.TB) *Log {
	t.Helper()
	l, err := Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestBlocksComeBack: those still in memory, those in the file, empty ones and
// one larger than the buffer.
func TestBlocksComeBack(t *testing.T) {
	l := newLog(t)
	rnd := rand.New(rand.NewPCG(1, 1))
	var places []int64
	var want [][]byte
	for n := range 300 {
		b := make([]byte, rnd.IntN(3000))
		if n == 70 {
			b = make([]byte, 3*WriteBuffer)
		}
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		at, err := l.Append(b)
		if err != nil {
			t.Fatal(err)
		}
		places, want = append(places, at), append(want, b)
		k := rnd.IntN(len(want))
		if got, err := l.Read(places[k], nil); err != nil || !bytes.Equal(got, want[k]) {
			t.Fatalf("block %d of %d: %d bytes, %v", k, len(want), len(got), err)
		}
	}
	path := l.f.Name()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file outlives its log: %v", err)
	}
}

// TestAFlipIsNoticed: in whichever byte of a block.
func TestAFlipIsNoticed(t *testing.T) {
	l := newLog(t)
	defer l.Close()
	want := []byte("where a chunk lies")
	at, err := l.Append(want)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read(at, nil); err != nil {
		t.Fatal(err)
	}
	for n := range int64(blockHead + len(want)) {
		var b [1]byte
		_, _ = l.f.ReadAt(b[:], at+n)
		_, _ = l.f.WriteAt([]byte{b[0] ^ 4}, at+n)
		if got, err := l.Read(at, nil); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d flipped: read %q, %v", n, got, err)
		}
		_, _ = l.f.WriteAt(b[:], at+n)
	}
	_ = l.f.Truncate(at + blockHead)
	if _, err := l.Read(at, nil); err == nil {
		t.Error("a block that is cut off was read")
	}
}

// TestSortedIsWhatSortGives, with budgets from one record up to all of them, in
// one level and several.
func TestSortedIsWhatSortGives(t *testing.T) {
	for _, c := range []struct{ records, budget int }{{0, 100}, {1, 1}, {500, 12}, {5000, 24}, {5000, 1 << 20}, {20000, 12 * 100}, {20000, 12}} {
		l := newLog(t)
		s := NewSorter(l, 12, c.budget)
		rnd := rand.New(rand.NewPCG(uint64(c.records), uint64(c.budget)))
		var want [][]byte
		for range c.records {
			b := binary.BigEndian.AppendUint64(nil, rnd.Uint64()>>(rnd.IntN(60)))
			b = binary.BigEndian.AppendUint32(b, rnd.Uint32N(9))
			want = append(want, b)
			if err := s.Add(b); err != nil {
				t.Fatal(err)
			}
		}
		slices.SortFunc(want, bytes.Compare)
		for range 2 { // it can be read twice
			n := 0
			for b, err := range s.Sorted() {
				if err != nil || n == len(want) || !bytes.Equal(b, want[n]) {
					t.Fatalf("%+v: record %d is %x, %v", c, n, b, err)
				}
				n++
			}
			if n != len(want) || s.Len() != int64(n) {
				t.Fatalf("%+v: %d records", c, n)
			}
		}
		if len(s.runs) > 4*fanIn {
			t.Errorf("%+v: %d runs", c, len(s.runs))
		}
		l.Close()
	}
}

func TestADamagedRunIsNoShorterOne(t *testing.T) {
	l := newLog(t)
	defer l.Close()
	s := NewSorter(l, 8, 80)
	for n := range uint64(1000) {
		if err := s.Add(binary.BigEndian.AppendUint64(nil, n*7%1000)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Read(s.runs[0].blocks[0], nil); err != nil { // all is in the file now
		t.Fatal(err)
	}
	_, _ = l.f.WriteAt([]byte{0xff}, s.runs[len(s.runs)/2].blocks[0]+20)
	var last error
	for _, err := range s.Sorted() {
		last = err
	}
	if !errors.Is(last, ErrDamaged) {
		t.Errorf("got %v", last)
	}
	if err := s.Add(make([]byte, 9)); err == nil {
		t.Error("a record of another size was taken")
	}
}
