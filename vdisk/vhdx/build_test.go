package vhdx

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// Images built by hand, from the specification's tables alone. Structures are
// laid out as: log at 1 MiB, metadata at 2 MiB, BAT from 3 MiB, then blocks.

const (
	testLogAt  = 1 * mib
	testMetaAt = 2 * mib
	testBATAt  = 3 * mib
)

// draft is what to build; the zero values of most fields are usual ones.
type draft struct {
	diskSize   int64
	blockSize  int64 // 0: 2 MiB
	sector     int64 // 0: 512
	parameters uint32
	log        []byte // its ring; nil: 1 MiB that is empty
	logGUID    guid
	noHeader1  bool
	noRegions1 bool
	noHeader2  bool
	noRegions2 bool
	items      []draftItem // more metadata items
	extra      []region    // more regions
	required   bool        // they are required
}

type draftItem struct {
	id    string
	flags uint32
	b     []byte
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

func parseGUID(s string) (g guid) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil {
		panic(err)
	}
	copy(g[:], b)
	g[0], g[1], g[2], g[3] = b[3], b[2], b[1], b[0]
	g[4], g[5] = b[5], b[4]
	g[6], g[7] = b[7], b[6]
	return g
}

func put16(b []byte, v uint16) { binary.LittleEndian.PutUint16(b, v) }
func put32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }
func put64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

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
		x.next = max(x.next, r.offset+r.length)
	}
	x.Truncate(x.next)

	x.write([]byte("vhdxfile"), 0)
	x.write(d.log, testLogAt)
	if !d.noHeader1 {
		x.write(headerBytes(7, d.logGUID, int64(len(d.log))), headerAt1)
	}
	if !d.noHeader2 {
		x.write(headerBytes(6, d.logGUID, int64(len(d.log))), headerAt2)
	}
	regions := append([]region{{regionBAT, testBATAt, batSize}, {regionMetadata, testMetaAt, mib}}, d.extra...)
	table := regionBytes(regions, d.required)
	if !d.noRegions1 {
		x.write(table, regionAt1)
	}
	if !d.noRegions2 {
		x.write(table, regionAt2)
	}
	x.write(metadataBytes(d), testMetaAt)
	return x
}

func headerBytes(sequence uint64, logGUID guid, logLength int64) []byte {
	b := make([]byte, headerSize)
	copy(b, "head")
	put64(b[8:], sequence)
	copy(b[48:], logGUID[:])
	put16(b[66:], 1)
	put32(b[68:], uint32(logLength))
	put64(b[72:], uint64(testLogAt))
	put32(b[4:], checksum(b))
	return b
}

func regionBytes(list []region, required bool) []byte {
	b := make([]byte, tableSize)
	copy(b, "regi")
	put32(b[8:], uint32(len(list)))
	for i, r := range list {
		e := b[16+32*i:]
		g := parseGUID(r.id)
		copy(e, g[:])
		put64(e[16:], uint64(r.offset))
		put32(e[24:], uint32(r.length))
		if required || i < 2 {
			put32(e[28:], 1)
		}
	}
	put32(b[4:], checksum(b))
	return b
}

func metadataBytes(d draft) []byte {
	b := make([]byte, tableSize)
	copy(b, "metadata")
	u32 := func(v ...uint32) (b []byte) {
		for _, v := range v {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		return b
	}
	id := parseGUID("01234567-89ab-cdef-0123-456789abcdef")
	items := append([]draftItem{
		{itemFileParameters, 4, u32(uint32(d.blockSize), d.parameters)},
		{itemDiskSize, 6, binary.LittleEndian.AppendUint64(nil, uint64(d.diskSize))},
		{itemDiskID, 6, id[:]},
		{itemLogicalSector, 6, u32(uint32(d.sector))},
		{itemPhysicalSector, 6, u32(4096)},
	}, d.items...)
	put16(b[10:], uint16(len(items)))
	for i, item := range items {
		e := b[32+32*i:]
		g := parseGUID(item.id)
		copy(e, g[:])
		put32(e[16:], uint32(len(b)))
		put32(e[20:], uint32(len(item.b)))
		put32(e[24:], item.flags)
		b = append(b, item.b...)
		b = append(b, 0xEE) // items need no alignment
	}
	return b
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
	x.setEntry(block, uint64(at)|stateFullyPresent)
	if _, err := x.want.WriteAt(b, block*x.d.blockSize); err != nil {
		x.t.Fatal(err)
	}
	return at
}

func (x *built) check() *Image {
	x.t.Helper()
	m, err := Open(x.Sparse)
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
	changes  []patch // 4 KiB of data, or zeros
	guid     guid
}

// bytes puts an entry together as section 2.3.1 says.
func (l logEntry) bytes() []byte {
	const sector = int(sectorSize)
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
		put64(d[16:], uint64(c.offset))
		put64(d[24:], l.sequence)
		if c.data == nil {
			copy(d, "zero")
			put64(d[8:], uint64(c.end-c.offset))
			continue
		}
		copy(d, "desc")
		copy(d[4:], c.data[4092:])
		copy(d[8:16], c.data[:8])
		s := make([]byte, sector)
		copy(s, "data")
		put32(s[4:], uint32(l.sequence>>32))
		copy(s[8:], c.data[8:4092])
		put32(s[4092:], uint32(l.sequence))
		b = append(b, s...)
	}
	put32(b[8:], uint32(len(b)))
	put32(b[4:], checksum(b))
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
