package vhd_test

import (
	"context"
	"encoding/binary"
	"iter"
	"runtime"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhd"
)

// endless is the largest image there can be, made up as it is read: each block
// has a place, in no order. Its bitmaps have no bit.
type endless struct {
	*built
	size  int64
	first int64 // where blocks begin
	step  int64 // from one to the next
}

func (e endless) Size() int64 { return e.size }

func (e endless) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	end := e.built.Size()
	if off < end {
		_, _ = e.built.ReadAt(p, off) // what is behind its end stays zero
	}
	if off == e.size-512 {
		copy(p, e.footerBytes())
	}
	n := (e.size - 512 - e.first) / e.step
	for i := max(0, draftTableAt-off); i < int64(len(p)) && off+i < e.first-512; i += 4 {
		block := (off + i - draftTableAt) / 4
		binary.BigEndian.PutUint32(p[i:], uint32((e.first+block*2_654_435_761%n*e.step)/512))
	}
	return len(p), nil
}

func (e endless) Extents(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) { yield(vdisk.Extent{Offset: from, Length: to - from}, nil) }
}

// patience is more than is promised, because the machine may have other work.
const patience = 30 * time.Second

// TestLimits opens and maps the image with the most blocks that the format and
// this package allow: 4 Mi of 512 KiB, in nearly 2 TiB.
func TestLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const step = 512<<10 + 512
	blocks := int64(2040*gib) / (512 * kib)
	x := endless{built: build(t, draft{size: blocks * 512 * kib, block: 512 * kib}), size: 1 << 41, step: step}
	x.first = (draftTableAt + blocks*4 + 1023) / 512 * 512
	x.Truncate(draftTableAt) // the table is made up
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	m, err := vhd.Open(x, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened := time.Since(start)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 256<<20 {
		t.Errorf("opening allocates %d MiB", took>>20)
	}
	t.Logf("%d blocks opened in %v, allocating %d MiB", blocks, opened, (after.TotalAlloc-before.TotalAlloc)>>20)
	runtime.ReadMemStats(&before)
	start = time.Now()
	seen, err := vdisktest.Collect(m.Extents(t.Context(), 0, 32*gib))
	if err != nil || len(seen) != 1 || seen[0].Kind != vdisk.Zero {
		t.Errorf("%d extents, %v", len(seen), err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(m)
	t.Logf("32 GiB mapped in %v; %d MiB in use", time.Since(start), after.HeapAlloc>>20)
	if after.HeapAlloc > before.HeapAlloc && after.HeapAlloc-before.HeapAlloc > 32<<20 {
		t.Errorf("%d MiB stay in use after mapping", (after.HeapAlloc-before.HeapAlloc)>>20)
	}
	if opened > patience {
		t.Errorf("opening takes %v", opened)
	}
}

// A bitmap with the most runs, behind a long one that every look at it would have
// to pass, costs no more than its runs.
func TestManyRuns(t *testing.T) {
	const block = 256 << 20
	x := build(t, draft{size: block, block: block})
	at := x.next
	x.put(0, []byte("x"), func(s int64) bool { return s < block/512/2 || s%2 == 0 })
	x.next = at + x.bitmap + block
	m, err := vhd.Open(x.finish(), nil)
	if err != nil {
		t.Fatal(err)
	}
	began, runs := time.Now(), 0
	for _, err := range m.Own(t.Context(), block/2-512, block) {
		if err != nil {
			t.Fatal(err)
		}
		runs++
	}
	p := make([]byte, block/2)
	if n, _ := m.ReadAt(p, block/2); n < len(p) {
		t.Errorf("read %d bytes", n)
	}
	t.Logf("%d runs mapped, and read, in %v", runs, time.Since(began))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
