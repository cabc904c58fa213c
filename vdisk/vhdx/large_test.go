package vhdx

import (
	"context"
	"encoding/binary"
	"iter"
	"runtime"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// dense is a file of which every block is present, at computed places: its table
// need not be in memory. Structures are a built image's.
type dense struct {
	*built
	size int64
}

func newDense(t testing.TB, size, block int64) dense {
	x := build(t, draft{diskSize: size, blockSize: block})
	return dense{x, x.next + size}
}

func (d dense) Size() int64 { return d.size }

func (d dense) ReadAt(p []byte, off int64) (int, error) {
	g := layout.NewGeometry(layout.Metadata{DiskSize: d.d.diskSize, BlockSize: d.d.blockSize, LogicalSector: 512})
	end := testBATAt + g.Length()*layout.EntrySize
	if off < testBATAt || off >= end {
		if off+int64(len(p)) > d.built.Size() {
			clear(p)
			return len(p), nil
		}
		return d.built.ReadAt(p, off)
	}
	for i := 0; i < len(p); i += 8 {
		n := (off + int64(i) - testBATAt) / 8
		e := uint64(0)
		if !g.IsBitmap(n) && g.BlockAt(n) < g.Blocks {
			e = uint64(d.next+g.BlockAt(n)*d.d.blockSize) | layout.FullyPresent
		}
		binary.LittleEndian.PutUint64(p[i:], e)
	}
	return len(p), nil
}

func (d dense) Extents(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		yield(vdisk.Extent{Offset: from, Length: to - from}, nil)
	}
}

// Opening costs the same whatever the table is, and listing the extents of the
// largest table there is (512 MiB, all of it in use) costs no more memory than
// listing a small one.
func TestMemoryIsBounded(t *testing.T) {
	for _, block := range []int64{mib, 32 * mib, 256 * mib} {
		x := newDense(t, 64*tib, block)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		began := time.Now()
		m, err := Open(x, nil)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		t.Logf("blocks of %d MiB: opened in %v, %d KiB allocated", block/mib, took, used>>10)
		if used > 64<<20 {
			t.Errorf("blocks of %d MiB: opening allocates %d MiB", block/mib, used>>20)
		}
		if took > 2*time.Second { // the figure is 50 ms, on a machine that does nothing else
			t.Errorf("blocks of %d MiB: opening took %v", block/mib, took)
		}
		peak, n := uint64(0), 0
		for e, err := range m.Extents(t.Context(), 0, m.Size()/16) {
			if err != nil || e.Kind != vdisk.Data {
				t.Fatal(e, err)
			}
			n++
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if peak = after.HeapAlloc - min(after.HeapAlloc, before.HeapAlloc); peak > 40<<20 {
			t.Errorf("blocks of %d MiB: the image holds %d MiB after %d extents", block/mib, peak>>20, n)
		}
		runtime.KeepAlive(m)
	}
}

// BenchmarkOpen opens a 64 TiB disk with blocks of 32 MiB, all of them present.
func BenchmarkOpen(b *testing.B) {
	x := newDense(b, 64*tib, 32*mib)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(x, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExtentsDense lists 64 TiB in blocks of 1 MiB, all of them present: a
// table of 512 MiB.
func BenchmarkExtentsDense(b *testing.B) {
	x := newDense(b, 64*tib, mib)
	m, err := Open(x, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := vdisktest.Collect(m.Extents(b.Context(), 0, m.Size())); err != nil {
			b.Fatal(err)
		}
	}
}
