package direct

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestBothWaysWriteOneFile: writes of all kinds of places and lengths, from several
// goroutines, give the bytes that they would give by the ordinary way.
func TestBothWaysWriteOneFile(t *testing.T) {
	const size, workers = 8 << 20, 4
	path := filepath.Join(t.TempDir(), "disk")
	raw, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f := New(raw)
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
	var wg sync.WaitGroup
	for n := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(n)))
			from, to := int64(n)*size/workers, int64(n+1)*size/workers
			for at := from; at < to; {
				k := int64(r.IntN(64)+1) * Align
				if r.IntN(2) == 0 {
					k -= int64(r.IntN(Align)) // the next one is at an odd place
				}
				k = min(k, to-at)
				b := Buffer(int(k))
				if r.IntN(4) == 0 {
					b = make([]byte, k+1)[1:] // at an odd place in memory
				}
				copy(b, want[at:])
				if got, err := f.WriteAt(b, at); err != nil || got != int(k) {
					t.Errorf("write %d at %d: %d, %v", k, at, got, err)
				}
				at += k
			}
		})
	}
	wg.Wait()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the file is not what was written (%v)", err)
	}
	if _, err := f.Write(Buffer(Align)); err == nil {
		t.Error("a closed file is written to")
	}
}

// TestWriteGoesOn: whole pieces, then an odd end.
func TestWriteGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "object")
	raw, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f := New(raw)
	var want []byte
	for _, n := range []int{Align, 64 << 10, 1 << 20, 777, 3} {
		b := Buffer(n)
		_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
		want = append(want, b...)
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the file is not what was written (%v)", err)
	}
}
