package vhdx

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// Images built by hand, from the specification's tables alone. Structures are
// laid out as: log at 1 MiB, metadata at 2 MiB, BAT from 3 MiB, then blocks.

const (
	kib, mib, tib = layout.KiB, layout.MiB, layout.TiB

	entryHeaderSize, descriptorSize = 64, 32 // of the log

	testLogAt  = 1 * mib
	testMetaAt = 2 * mib
	testBATAt  = 3 * mib
)

var testDataWrite = layout.GUID{0xD, 0xA, 0x7, 0xA}

func put16(b []byte, v uint16) { binary.LittleEndian.PutUint16(b, v) }
func put32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }
func put64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

func reg(id string, off, length int64, required bool) layout.Region {
	return layout.Region{ID: id, Offset: off, Length: length, Required: required}
}

func itm(id string, flags uint32, b []byte) layout.Item {
	return layout.Item{ID: id, Flags: flags, Bytes: b}
}

// draft is what to build; the zero values of most fields are usual ones.
type draft struct {
	diskSize   int64
	blockSize  int64 // 0: 2 MiB
	sector     int64 // 0: 512
	parameters uint32
	linkage    layout.GUID // of a differencing image
	log        []byte      // its ring; nil: 1 MiB that is empty
	logGUID    layout.GUID
	noHeader1  bool
	noRegions1 bool
	noHeader2  bool
	noRegions2 bool
	items      []layout.Item   // more metadata items
	extra      []layout.Region // more regions
}

// built is an image in memory, with its disk's bytes beside it.
type built struct {
	*vdisktest.Sparse
	t     testing.TB
	want  *vdisktest.Sparse
	d     draft
	next  int64 // where the next block goes
	ratio int64
}

func (x *built) write(b []byte, off int64) {
	x.t.Helper()
	if need := off + int64(len(b)); need > x.Size() {
		x.Truncate((need + mib - 1) / mib * mib)
	}
	if _, err := x.WriteAt(b, off); err != nil {
		x.t.Fatal(err)
	}
}

// build makes an image without present blocks.
func build(t testing.TB, d draft) *built {
	if d.blockSize == 0 {
		d.blockSize = 2 * mib
	}
	if d.sector == 0 {
		d.sector = 512
	}
	if d.log == nil {
		d.log = make([]byte, mib)
	}
	x := &built{Sparse: vdisktest.NewSparse(mib), t: t, want: vdisktest.NewSparse(d.diskSize), d: d, ratio: d.sector << 23 / d.blockSize}
	blocks := (d.diskSize + d.blockSize - 1) / d.blockSize
	batSize := (max(1, blocks+blocks/x.ratio)*8 + mib - 1) / mib * mib
	x.next = testBATAt + batSize
	for _, r := range d.extra {
		x.next = max(x.next, r.Offset+r.Length)
	}
	x.Truncate(x.next)

	x.write([]byte("vhdxfile"), 0)
	x.write(d.log, testLogAt)
	if !d.noHeader1 {
		x.write(headerBytes(7, d.logGUID, int64(len(d.log))), layout.HeaderAt1)
	}
	if !d.noHeader2 {
		x.write(headerBytes(6, d.logGUID, int64(len(d.log))), layout.HeaderAt2)
	}
	regions := append([]layout.Region{reg(layout.RegionBAT, testBATAt, batSize, true), reg(layout.RegionMetadata, testMetaAt, mib, true)}, d.extra...)
	table := layout.RegionTable(regions)
	if !d.noRegions1 {
		x.write(table, layout.RegionAt1)
	}
	if !d.noRegions2 {
		x.write(table, layout.RegionAt2)
	}
	x.write(metadataBytes(d), testMetaAt)
	return x
}

func headerBytes(sequence uint64, logGUID layout.GUID, logLength int64) []byte {
	return layout.Header{Sequence: sequence, FileWrite: testDataWrite, DataWrite: testDataWrite, LogGUID: logGUID, Version: 1, LogOffset: testLogAt, LogLength: logLength}.Bytes()
}

func metadataBytes(d draft) []byte {
	m := layout.Metadata{
		BlockSize: d.blockSize, DiskSize: d.diskSize, LogicalSector: int(d.sector), PhysicalSector: 4096,
		DiskID: layout.ParseGUID("01234567-89ab-cdef-0123-456789abcdef"),
		Fixed:  d.parameters&1 != 0, HasParent: d.parameters&2 != 0,
		Locator: layout.Locator{Linkage: d.linkage, Relative: `.\base.vhdx`},
	}
	// Items need no alignment: an odd one goes first.
	odd := itm("99999999-2222-3333-4444-555555555555", 0, []byte{0xEE})
	return layout.MetadataTable(slices.Concat([]layout.Item{odd}, m.Items(), d.items))
}

// entryAt is where in the file the entry of a block is.
func (x *built) entryAt(block int64) int64 { return testBATAt + 8*(block+block/x.ratio) }

// setEntry writes the BAT entry of a block.
func (x *built) setEntry(block int64, e uint64) {
	x.write(binary.LittleEndian.AppendUint64(nil, e), x.entryAt(block))
}

// put adds a present block that holds b at its beginning, and returns its place.
func (x *built) put(block int64, b []byte) int64 {
	at := x.next
	x.next += x.d.blockSize
	x.Truncate(x.next)
	x.write(b, at)
	x.setEntry(block, uint64(at)|layout.FullyPresent)
	if _, err := x.want.WriteAt(b, block*x.d.blockSize); err != nil {
		x.t.Fatal(err)
	}
	return at
}

func (x *built) check() *Image {
	x.t.Helper()
	m, err := Open(x.Sparse, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	return m
}

var _ vdisk.Image = (*Image)(nil)
var _ vdisk.Image = (*vdisktest.Sparse)(nil)

// logEntry is an entry to be written to a ring.
type logEntry struct {
	sequence uint64
	tail     int
	flushed  int64
	last     int64
	changes  []overlay.Patch // 4 KiB of data, or zeros
	guid     layout.GUID
}

// bytes puts an entry together as section 2.3.1 says.
func (l logEntry) bytes() []byte {
	const sector = int(layout.SectorSize)
	head := (entryHeaderSize + len(l.changes)*descriptorSize + sector - 1) / sector * sector
	b := make([]byte, head)
	copy(b, "loge")
	put32(b[12:], uint32(l.tail))
	put64(b[16:], l.sequence)
	put32(b[24:], uint32(len(l.changes)))
	copy(b[32:], l.guid[:])
	put64(b[48:], uint64(l.flushed))
	put64(b[56:], uint64(l.last))
	for i, c := range l.changes {
		d := b[entryHeaderSize+i*descriptorSize:][:descriptorSize]
		put64(d[16:], uint64(c.Offset))
		put64(d[24:], l.sequence)
		if c.Data == nil {
			copy(d, "zero")
			put64(d[8:], uint64(c.End-c.Offset))
			continue
		}
		copy(d, "desc")
		copy(d[4:], c.Data[4092:])
		copy(d[8:16], c.Data[:8])
		s := make([]byte, sector)
		copy(s, "data")
		put32(s[4:], uint32(l.sequence>>32))
		copy(s[8:], c.Data[8:4092])
		put32(s[4092:], uint32(l.sequence))
		b = append(b, s...)
	}
	put32(b[8:], uint32(len(b)))
	put32(b[4:], layout.Checksum(b))
	return b
}

// ringOf writes entries one after another into a ring from start on, with wrap.
func ringOf(size, start int, entries ...logEntry) []byte {
	ring := make([]byte, size)
	at := start
	for _, e := range entries {
		for _, c := range e.bytes() {
			ring[at%size] = c
			at++
		}
	}
	return ring
}
