package vhdx

import (
	"testing"

	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// BenchmarkExtents maps a 16 TiB disk with few present blocks of 2 MiB.
func BenchmarkExtents(b *testing.B) {
	x := build(b, draft{diskSize: 16 * tib, blockSize: 2 * mib})
	for i := range int64(100) {
		x.put(i*70_001, []byte("x"))
	}
	m, err := Open(x.Sparse, nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if e, err := vdisktest.Collect(m.Extents(b.Context(), 0, m.Size())); err != nil || len(e) < 200 {
			b.Fatal(len(e), err)
		}
	}
}

// BenchmarkReadAt reads 64 KiB pieces in order from one disk in memory and, to
// compare, from the memory itself.
func BenchmarkReadAt(b *testing.B) {
	x := build(b, draft{diskSize: 64 * mib})
	for i := range int64(32) {
		x.put(i, random(uint64(i), 2*mib))
	}
	m, err := Open(x.Sparse, nil)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 64*kib)
	read := func(r interface {
		ReadAt([]byte, int64) (int, error)
	}) func(*testing.B) {
		return func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			off := int64(0)
			for b.Loop() {
				if n, _ := r.ReadAt(p, off); n < len(p) {
					b.Fatal("short read")
				}
				off = (off + int64(len(p))) % m.Size()
			}
		}
	}
	b.Run("vhdx", read(m))
	b.Run("memory", read(x.want))
}
