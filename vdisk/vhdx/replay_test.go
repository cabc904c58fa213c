package vhdx

import (
	"errors"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

var testGUID = layout.GUID{0xA, 0xB, 0xC}

// batSector is a sector of the BAT with the given entries at its beginning.
func batSector(entries ...uint64) []byte {
	b := make([]byte, layout.SectorSize)
	for i, e := range entries {
		put64(b[8*i:], e)
	}
	return b
}

func change(off int64, b []byte) overlay.Patch {
	return overlay.Patch{Offset: off, End: off + int64(len(b)), Data: b}
}
func zeroed(off, length int64) overlay.Patch { return overlay.Patch{Offset: off, End: off + length} }

// dirty builds an image whose blocks 0 and 1 are in the file but, as far as
// the BAT in the file goes, absent, and whose log has the given entries.
func dirty(t testing.TB, start int, entries func(at int64) []logEntry) *built {
	x := build(t, draft{diskSize: 6 * mib})
	at := x.put(0, random(1, 2*mib))
	x.put(1, random(2, 2*mib))
	x.setEntry(0, 0)
	x.setEntry(1, 0)
	list := entries(at)
	for i := range list {
		list[i].guid = testGUID
	}
	x.write(ringOf(int(mib), start, list...), testLogAt)
	x.write(headerBytes(9, testGUID, mib), layout.HeaderAt1)
	return x
}

func TestReplay(t *testing.T) {
	present := func(at int64) uint64 { return uint64(at) | layout.FullyPresent }
	for _, c := range []struct {
		name    string
		start   int
		entries func(at int64) []logEntry
	}{
		{"one entry", 0, func(at int64) []logEntry {
			return []logEntry{{sequence: 5, changes: []overlay.Patch{change(testBATAt, batSector(present(at), present(at+2*mib)))}}}
		}},
		{"wraps around", int(mib - 2*layout.SectorSize), func(at int64) []logEntry {
			tail := int(mib - 2*layout.SectorSize)
			return []logEntry{
				{sequence: 5, tail: tail, changes: []overlay.Patch{change(testBATAt, batSector(present(at)))}},
				{sequence: 6, tail: tail, changes: []overlay.Patch{zeroed(testBATAt, mib), change(testBATAt, batSector(present(at), present(at+2*mib)))}},
			}
		}},
		{"an entry wraps around", int(mib - layout.SectorSize), func(at int64) []logEntry {
			tail := int(mib - layout.SectorSize)
			return []logEntry{
				{sequence: 5, tail: tail, changes: []overlay.Patch{change(testBATAt, batSector(present(at), present(at+2*mib)))}},
			}
		}},
		{"entries before the tail are done", 0, func(at int64) []logEntry {
			return []logEntry{
				{sequence: 5, changes: []overlay.Patch{change(testMetaAt, make([]byte, layout.SectorSize))}}, // would wipe the metadata
				{sequence: 6, tail: int(2 * layout.SectorSize), changes: []overlay.Patch{change(testBATAt, batSector(present(at), present(at+2*mib)))}},
			}
		}},
		{"later entries win", 0, func(at int64) []logEntry {
			return []logEntry{
				{sequence: 5, changes: []overlay.Patch{change(testBATAt, batSector(7, 7)), zeroed(testBATAt, 64*kib)}},
				{sequence: 6, changes: []overlay.Patch{change(testBATAt, batSector(present(at), present(at+2*mib)))}},
			}
		}},
		{"an older run is left alone", 512 * 1024, func(at int64) []logEntry {
			tail := 512 * 1024
			return []logEntry{
				{sequence: 50, tail: tail, changes: []overlay.Patch{change(testBATAt, batSector(present(at), present(at+2*mib)))}},
				{sequence: 7, tail: tail + int(2*layout.SectorSize), changes: []overlay.Patch{change(testMetaAt, make([]byte, layout.SectorSize))}},
			}
		}},
		{"sequence above 32 bits", 0, func(at int64) []logEntry {
			return []logEntry{{sequence: 5<<32 + 7, changes: []overlay.Patch{change(testBATAt, batSector(present(at), present(at+2*mib)))}}}
		}},
		{"many descriptors", 0, func(at int64) []logEntry {
			var list []overlay.Patch
			for range 126 + 128 + 3 {
				list = append(list, zeroed(testBATAt, layout.SectorSize))
			}
			list = append(list, change(testBATAt, batSector(present(at), present(at+2*mib))))
			return []logEntry{{sequence: 1, changes: list}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := dirty(t, c.start, c.entries)
			m, err := Open(x.Sparse, nil)
			if err != nil {
				t.Fatal(err)
			}
			vdisktest.Run(t, m, x.want)
		})
	}
}

// Payload is never logged, but if it is, reading must agree with what a
// replay into the file would leave. So must the size of the file.
func TestReplayOverPayload(t *testing.T) {
	sector := random(77, layout.SectorSize)
	x := dirty(t, 0, func(at int64) []logEntry {
		return []logEntry{{sequence: 3, last: at + 6*mib, changes: []overlay.Patch{
			change(testBATAt, batSector(uint64(at)|layout.FullyPresent, uint64(at+2*mib)|layout.FullyPresent, uint64(at+4*mib)|layout.FullyPresent)),
			zeroed(at+mib, 64*kib),
			change(at+mib+4096, sector),
			change(at+4*mib-4096, sector),
			change(at+5*mib, sector), // in the part that the log adds to the file
		}}}
	})
	for off, b := range map[int64][]byte{mib: make([]byte, 64*kib), 4*mib - 4096: sector, 5 * mib: sector} {
		_, _ = x.want.WriteAt(b, off)
	}
	_, _ = x.want.WriteAt(sector, mib+4096)
	vdisktest.Run(t, x.check(), x.want)
}

func TestReplayRefused(t *testing.T) {
	good := func(at int64) []logEntry {
		return []logEntry{{sequence: 5, changes: []overlay.Patch{change(testBATAt, batSector(uint64(at)|layout.FullyPresent))}}}
	}
	for _, c := range []struct {
		name  string
		spoil func(x *built)
		want  error
	}{
		{"nothing spoilt", func(x *built) {}, nil},
		{"entry layout.Checksum", func(x *built) { x.write([]byte{1}, testLogAt+60) }, vdisk.ErrFormat},
		{"data of another entry", func(x *built) {
			b := logEntry{sequence: 5, guid: testGUID, changes: []overlay.Patch{change(testBATAt, batSector(7))}}.bytes()
			put32(b[layout.SectorSize+4092:], 4)
			put32(b[4:], layout.Checksum(b))
			x.write(b, testLogAt)
		}, vdisk.ErrFormat},
		{"descriptor of another entry", func(x *built) {
			b := logEntry{sequence: 5, guid: testGUID, changes: []overlay.Patch{change(testBATAt, batSector(7))}}.bytes()
			put64(b[entryHeaderSize+24:], 4)
			put32(b[4:], layout.Checksum(b))
			x.write(b, testLogAt)
		}, vdisk.ErrFormat},
		{"another log's", func(x *built) {
			x.write(headerBytes(10, layout.GUID{9}, mib), layout.HeaderAt1)
		}, vdisk.ErrFormat},
		{"tail outside the run", func(x *built) {
			x.write(logEntry{sequence: 5, guid: testGUID, tail: 4096 * 9}.bytes(), testLogAt)
		}, vdisk.ErrFormat},
		{"file shorter than the log says", func(x *built) {
			x.write(logEntry{sequence: 5, guid: testGUID, flushed: x.Size() + 1}.bytes(), testLogAt)
		}, vdisk.ErrTruncated},
		{"change far away", func(x *built) {
			x.write(logEntry{sequence: 5, guid: testGUID, changes: []overlay.Patch{zeroed(1<<62, 4096)}}.bytes(), testLogAt)
		}, vdisk.ErrFormat},
		{"change not aligned", func(x *built) {
			x.write(logEntry{sequence: 5, guid: testGUID, changes: []overlay.Patch{zeroed(testBATAt+512, 4096)}}.bytes(), testLogAt)
		}, vdisk.ErrFormat},
		{"log too large", func(x *built) { x.write(headerBytes(10, testGUID, 65*mib), layout.HeaderAt1) }, vdisk.ErrUnsupported},
		{"log past the end", func(x *built) { x.write(headerBytes(10, testGUID, 64*mib), layout.HeaderAt1) }, vdisk.ErrTruncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := dirty(t, 0, good)
			c.spoil(x)
			if _, err := Open(x.Sparse, nil); !errors.Is(err, c.want) {
				t.Errorf("open: %v, want %v", err, c.want)
			}
		})
	}
}

func TestGUID(t *testing.T) {
	for _, s := range []string{layout.RegionBAT, layout.ItemParentLocator} {
		if got := layout.ParseGUID(s).String(); got != s {
			t.Errorf("%s comes back as %s", s, got)
		}
	}
	if g := layout.ParseGUID(layout.RegionBAT); fmt.Sprintf("%x", g[:4]) != "6677c22d" {
		t.Errorf("first field is not little-endian: %x", g[:4])
	}
}

// The check value of CRC-32C is that of the nine digits; the field in the
// middle counts as zero.
func TestChecksum(t *testing.T) {
	b := []byte("1234XXXX56789")
	zeroed := []byte("1234\x00\x00\x00\x0056789")
	if got, want := layout.Checksum(b), crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli)); got != want {
		t.Errorf("%#x, want %#x", got, want)
	}
	if got := crc32.Checksum([]byte("123456789"), crc32.MakeTable(crc32.Castagnoli)); got != 0xE3069283 {
		t.Errorf("the table gives %#x", got)
	}
}
