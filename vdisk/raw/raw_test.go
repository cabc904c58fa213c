package raw_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/raw"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// sparseFile makes a file of the given size with data at a few places, and the
// same in memory.
func sparseFile(t *testing.T, size int64) (*os.File, *vdisktest.Sparse) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	want := vdisktest.NewSparse(size)
	rnd := rand.New(rand.NewPCG(3, uint64(size)))
	for range 20 {
		b := make([]byte, rnd.Int64N(min(size, 100_000))+1)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		off := rnd.Int64N(size - int64(len(b)) + 1)
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		if _, err := want.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	return f, want
}

func TestConformance(t *testing.T) {
	for _, size := range []int64{1, 511, 513, 4095, 1<<20 + 1, 64<<20 - 13, 64 << 20, 3<<40 + 4097} {
		t.Run(sizeName(size), func(t *testing.T) {
			f, want := sparseFile(t, size)
			m, err := raw.Open(f)
			if err != nil {
				t.Fatal(err)
			}
			vdisktest.Run(t, m, want)
		})
	}
}

func sizeName(n int64) string {
	b := []byte{}
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func TestHolesAreSeen(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("holes are found on Linux only")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 512<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	m, err := raw.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	e, err := vdisktest.Collect(m.Extents(t.Context(), 0, m.Size()))
	if err != nil || len(e) != 3 || e[0].Kind != vdisk.Zero || e[0].Length != 512<<20 || e[1].Length > 1<<20 {
		t.Errorf("map of a file with one written byte: %v, %v", e, err)
	}
}

func TestShrunk(t *testing.T) {
	f, _ := sparseFile(t, 10<<20)
	if _, err := f.WriteAt(make([]byte, 1<<20), 9<<20); err != nil {
		t.Fatal(err)
	}
	m, err := raw.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(5 << 20); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2<<20)
	if n, err := m.ReadAt(p, 4<<20); n != 1<<20 || !errors.Is(err, vdisk.ErrTruncated) {
		t.Errorf("read across the new end: %d, %v", n, err)
	}
	if _, err := m.ReadAt(p, 9<<20); !errors.Is(err, vdisk.ErrTruncated) {
		t.Errorf("read past the new end: %v", err)
	}
	if runtime.GOOS == "linux" {
		for _, from := range []int64{0, 5 << 20, 7 << 20} {
			if _, err := vdisktest.Collect(m.Extents(t.Context(), from, m.Size())); !errors.Is(err, vdisk.ErrTruncated) {
				t.Errorf("map from %d: %v", from, err)
			}
		}
	}
}

func TestNotADisk(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := raw.Open(dir); !errors.Is(err, vdisk.ErrUnsupported) {
		t.Errorf("open a folder: %v", err)
	}
}
