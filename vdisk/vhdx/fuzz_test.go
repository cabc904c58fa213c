package vhdx

import (
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
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
		f.Add(part(headerAt1, 128), part(regionAt1, 256), part(testMetaAt, 512), part(testMetaAt+tableSize, 64),
			part(testBATAt, 128), part(testLogAt, 128), part(testLogAt+sectorSize, 64), x.Size())
	}
	add(build(f, draft{diskSize: 10 * mib}))
	add(build(f, draft{diskSize: 20 << 30, blockSize: 256 * mib, sector: 4096, parameters: 1}))
	add(build(f, draft{diskSize: 64 * tib, blockSize: 256 * mib, extra: []region{{itemDiskID, 8 * mib, mib, false}}}))
	x := build(f, draft{diskSize: 6 * mib})
	x.put(0, []byte("x"))
	add(x)
	add(dirty(f, 0, func(at int64) []logEntry {
		return []logEntry{{sequence: 5, changes: []overlay.Patch{zeroed(testBATAt+4096, 4096), change(testBATAt, batSector(uint64(at)|stateFullyPresent))}}}
	}))

	f.Fuzz(func(t *testing.T, head, region, meta, items, bat, logHead, logData []byte, size int64) {
		file := vdisktest.NewSparse(max(0, min(size, maxFileSize+mib)))
		put := func(b []byte, at, limit int64) []byte {
			b = append(b, make([]byte, max(0, limit-int64(len(b))))...)[:limit]
			_, _ = file.WriteAt(b, at) // outside a short file nothing is written
			return b
		}
		sum := func(b []byte) []byte { put32(b[4:], checksum(b)); return b }
		put([]byte("vhdxfile"), 0, 8)
		put(sum(put(head, headerAt1, headerSize)), headerAt1, headerSize)
		put(sum(put(region, regionAt1, tableSize)), regionAt1, tableSize)
		put(meta, testMetaAt, tableSize)
		put(items, testMetaAt+tableSize, 4096)
		put(bat, testBATAt, 4096)
		entry := append(put(logHead, testLogAt, sectorSize), put(logData, testLogAt+sectorSize, sectorSize)...)
		if n := int64(le32(entry[8:])); n >= 64 && n <= int64(len(entry)) {
			put(sum(entry[:n]), testLogAt, n)
		}

		m, err := Open(file)
		if err != nil {
			return
		}
		read(t, m)
	})
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
		if m, err := Open(vdisktest.FromBytes(b)); err == nil {
			read(t, m)
		}
	})
}

// FuzzLog searches a ring made of the given entries' headers for what to
// replay; no ring may take longer than a few passes over it.
func FuzzLog(f *testing.F) {
	f.Add(ringOf(64<<10, 0, logEntry{sequence: 5, changes: []overlay.Patch{zeroed(0, 4096)}}), uint16(0))
	f.Add(ringOf(64<<10, 60<<10, logEntry{sequence: 5, tail: 60 << 10}, logEntry{sequence: 6, tail: 60 << 10,
		changes: []overlay.Patch{change(8192, random(1, sectorSize))}}), uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, repair uint16) {
		ringBytes := append(b, make([]byte, 64<<10)...)[:64<<10]
		for i := range 16 { // make the checksums of the chosen sectors' entries right
			e := ringBytes[i*int(sectorSize):]
			if n := int(le32(e[8:])); repair&(1<<i) != 0 && n >= 64 && n <= len(e) {
				put32(e[4:], checksum(e[:n]))
			}
		}
		r := &ring{b: ringBytes, work: 16 * len(ringBytes)}
		active, err := r.active()
		if err != nil {
			return
		}
		var changes []overlay.Patch
		for _, e := range active {
			if changes, err = e.patches(changes); err != nil {
				return
			}
		}
		v := overlay.New(vdisktest.NewSparse(mib), 0, changes)
		_, _ = v.ReadAt(make([]byte, 8192), 4000)
	})
}
