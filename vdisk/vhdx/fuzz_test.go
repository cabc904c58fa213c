package vhdx

import (
	"encoding/binary"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

// FuzzOpen changes the structures of a small image, then repairs the checksums
// so that what is behind them is reached, and does with it all a reader does.
func FuzzOpen(f *testing.F) {
	add := func(x *built) {
		part := func(at, n int64) []byte {
			b := make([]byte, n)
			_, _ = x.ReadAt(b, at)
			return b
		}
		f.Add(part(layout.HeaderAt1, 128), part(layout.RegionAt1, 256), part(testMetaAt, 512), part(testMetaAt+layout.TableSize, 64),
			part(testBATAt, 128), part(testLogAt, 128), part(testLogAt+layout.SectorSize, 64), x.Size())
	}
	add(build(f, draft{diskSize: 10 * mib}))
	add(build(f, draft{diskSize: 20 << 30, blockSize: 256 * mib, sector: 4096, parameters: 1}))
	add(build(f, draft{diskSize: 64 * tib, blockSize: 256 * mib, extra: []layout.Region{reg(layout.ItemDiskID, 8*mib, mib, false)}}))
	x := build(f, draft{diskSize: 6 * mib})
	x.put(0, []byte("x"))
	add(x)
	add(dirty(f, 0, func(at int64) []logEntry {
		return []logEntry{{sequence: 5, changes: []overlay.Patch{zeroed(testBATAt+4096, 4096), change(testBATAt, batSector(uint64(at)|layout.FullyPresent))}}}
	}))

	y := build(f, draft{diskSize: 10 * mib, parameters: 2})
	y.setEntry(1, uint64(y.next)|layout.PartiallyPresent)
	y.next += 2 * mib
	y.write([]byte{0xF0, 1, 0x80}, y.bitmapAt(0)+512)
	add(y)
	add(build(f, draft{diskSize: 64 * tib, blockSize: 256 * mib, parameters: 2, sector: 4096}))

	f.Fuzz(func(t *testing.T, head, region, meta, items, bat, logHead, logData []byte, size int64) {
		file := vdisktest.NewSparse(max(0, min(size, layout.MaxFileSize+mib)))
		put := func(b []byte, at, limit int64) []byte {
			b = append(b, make([]byte, max(0, limit-int64(len(b))))...)[:limit]
			_, _ = file.WriteAt(b, at) // outside a short file nothing is written
			return b
		}
		sum := func(b []byte) []byte { put32(b[4:], layout.Checksum(b)); return b }
		put([]byte("vhdxfile"), 0, 8)
		put(sum(put(head, layout.HeaderAt1, layout.HeaderSize)), layout.HeaderAt1, layout.HeaderSize)
		put(sum(put(region, layout.RegionAt1, layout.TableSize)), layout.RegionAt1, layout.TableSize)
		put(meta, testMetaAt, layout.TableSize)
		put(items, testMetaAt+layout.TableSize, 4096)
		put(bat, testBATAt, 4096)
		entry := append(put(logHead, testLogAt, layout.SectorSize), put(logData, testLogAt+layout.SectorSize, layout.SectorSize)...)
		if n := int64(binary.LittleEndian.Uint32(entry[8:])); n >= 64 && n <= int64(len(entry)) {
			put(sum(entry[:n]), testLogAt, n)
		}

		parent := below(3*mib, 0)
		m, err := Open(file, finds(parent))
		judge(t, file, parent, m, err)
		if err != nil {
			return
		}
		read(t, m)
	})
}

// judge asks the strict reader: what it finds nothing wrong with must open, and
// read the same at both ends.
func judge(t *testing.T, file, parent *vdisktest.Sparse, m *Image, err error) {
	if file.Size() > 64*mib {
		return
	}
	s, wrong := strict.Open(file, file.Size(), parent)
	if wrong != nil {
		return
	}
	if err != nil {
		t.Fatalf("the strict reader finds nothing wrong: %v", err)
	}
	if s.Size != m.Size() {
		t.Fatalf("the strict reader sees %d bytes, not %d", s.Size, m.Size())
	}
	n := min(s.Size, 4096)
	for _, off := range []int64{0, s.Size - n} {
		want, err := s.Read(off, n)
		if err != nil {
			continue // the file ends inside the last block
		}
		if err := vdisktest.Equal(offset{m, off}, vdisktest.FromBytes(want), 0, n); err != nil {
			t.Fatalf("the strict reader has something else at %d: %v", off, err)
		}
	}
}

// read maps the disk and reads a little of every extent.
func read(t *testing.T, m *Image) {
	extents, err := vdisktest.Collect(m.Extents(t.Context(), 0, m.Size()))
	if err != nil {
		t.Fatalf("an image that opens has no map: %v", err)
	}
	if err := vdisktest.Cover(extents, 0, m.Size()); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	for _, e := range extents[:min(len(extents), 100)] {
		for _, off := range []int64{e.Offset, e.End() - 50} {
			n, _ := m.ReadAt(p, max(0, off))
			if e.Kind != vdisk.Zero || off < e.Offset {
				continue
			}
			for i, c := range p[:min(int64(n), e.End()-off)] {
				if c != 0 {
					t.Fatalf("byte %d in zero extent %+v is %#x", off+int64(i), e, c)
				}
			}
		}
	}
}

// FuzzBytes opens anything at all.
func FuzzBytes(f *testing.F) {
	f.Add([]byte("vhdxfile"))
	f.Add(append([]byte("vhdxfile"), make([]byte, 300<<10)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := Open(vdisktest.FromBytes(b), nil); err == nil {
			read(t, m)
		}
	})
}
