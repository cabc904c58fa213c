package qcow2_test

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"runtime"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// endless is an image with the longest L1 table there may be, made up as it is
// read: all of its 4 Mi L2 tables are there, in no order, and empty.
type endless struct {
	*built
	tables int64
}

func (e endless) Size() int64 { return (2*e.tables + 1<<17) * e.cluster }

func (e endless) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < e.cluster {
		_, _ = e.built.ReadAt(p, off) // what is behind its end stays zero
	}
	for i := max(0, e.cluster-off); i < int64(len(p)) && off+i < e.cluster+e.tables*8; i += 8 {
		n := (off + i - e.cluster) / 8 * 2_654_435_761 % e.tables
		binary.BigEndian.PutUint64(p[i:], uint64(e.tables+n)*uint64(e.cluster))
	}
	return len(p), nil
}

func (e endless) Extents(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) { yield(vdisk.Extent{Offset: from, Length: to - from}, nil) }
}

// patience is more than is promised, because the machine may have other work.
const patience = 30 * time.Second

func TestLimits(t *testing.T) {
	const tables = 4 << 20
	x := endless{build(t, draft{bits: 12, size: tables * 2 * mib}), tables} // 8 TiB in clusters of 4 KiB
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	m, err := qcow2.Open(x, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened := time.Since(start)
	runtime.ReadMemStats(&after)
	t.Logf("opened in %v, allocating %d MiB", opened, (after.TotalAlloc-before.TotalAlloc)>>20)
	if after.TotalAlloc-before.TotalAlloc > 256<<20 || opened > patience {
		t.Errorf("opening takes %v and %d MiB", opened, (after.TotalAlloc-before.TotalAlloc)>>20)
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	start = time.Now()
	seen, err := vdisktest.Collect(m.Extents(t.Context(), 0, tib/16))
	if err != nil || len(seen) != 1 || seen[0].Kind != vdisk.Zero {
		t.Errorf("%d extents, %v", len(seen), err)
	}
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(m)
	t.Logf("64 GiB in clusters of 4 KiB mapped in %v", took)
	if after.HeapAlloc > before.HeapAlloc+32<<20 {
		t.Errorf("%d MiB stay in use after mapping", (after.HeapAlloc-before.HeapAlloc)>>20)
	}
}

// Many snapshots with long names are a table of gigabytes.
func TestSnapshotTableIsBounded(t *testing.T) {
	const snapshots, step = 2000, (40 + 2*0xFFFF + 7) / 8 * 8
	x := build(t, draft{size: mib, header: func(h []byte) {
		binary.BigEndian.PutUint32(h[60:], snapshots)
		binary.BigEndian.PutUint64(h[64:], uint64(mib))
	}})
	head := make([]byte, 40)
	binary.BigEndian.PutUint32(head[12:], 0xFFFF_FFFF) // id and name
	for i := range int64(snapshots) {
		x.write(head, mib+i*step)
	}
	x.Truncate(2*mib + snapshots*step)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := qcow2.Snapshots(x); !errors.Is(err, vdisk.ErrUnsupported) {
		t.Errorf("a table of 250 MiB: %v", err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 {
		t.Errorf("%d MiB allocated", used>>20)
	}
}
