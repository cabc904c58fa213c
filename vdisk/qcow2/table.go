package qcow2

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/paged"
)

const (
	offsetMask   = 0x00FF_FFFF_FFFF_FE00 // of a table or cluster; the same in both tables
	l1Reserved   = 0x7F00_0000_0000_01FF
	l2Reserved   = 0x3F00_0000_0000_01FE
	isCompressed = 1 << 62
	isZero       = 1 << 0

	pageBytes = 64 << 10 // L2 tables are read in pages of this size, or whole if smaller
	keepBytes = 16 << 20
	keepPages = 16 << 10

	keepChildBytes = 2 << 20 // of images with a backing file, of which a chain may have many
)

// table reads the L1 and the L2 tables of one state of a disk.
type table struct {
	file        vdisk.Image
	version     uint32
	clusterBits uint
	clusterSize int64
	diskSize    int64
	extended    bool
	entrySize   int64
	perTable    int64 // entries of an L2 table
	perPage     int64 // and of a page of it
	l1          []uint64
	pages       *paged.Cache[[]byte] // nil where there is no L2 table
}

// newTable reads an L1 table of the given number of entries.
func newTable(file vdisk.Image, h header, at uint64, entries uint32) (*table, error) {
	t := &table{
		file: file, version: h.version, clusterBits: h.clusterBits, clusterSize: 1 << h.clusterBits, diskSize: h.size,
		extended: h.extended, entrySize: 8,
	}
	if t.extended {
		t.entrySize = 16
	}
	t.perTable = t.clusterSize / t.entrySize
	t.perPage = min(t.perTable, pageBytes/t.entrySize)
	covered := t.perTable * t.clusterSize
	need := (t.diskSize + covered - 1) / covered
	switch {
	case need > int64(entries):
		return nil, vdisk.BadFormat("L1 table of %d entries for a disk of %d bytes, which takes %d", entries, t.diskSize, need)
	case need*8 > maxL1:
		return nil, vdisk.Unsupported("L1 table of %d entries", need)
	case need > 0 && at%uint64(t.clusterSize) != 0:
		return nil, vdisk.BadFormat("L1 table at %d, which is no cluster", at)
	case at > uint64(file.Size()) || uint64(file.Size())-at < uint64(need)*8:
		return nil, vdisk.Truncated("L1 table of %d entries at %d, file ends at %d", need, at, file.Size())
	}
	b := make([]byte, need*8)
	if err := vdisk.ReadFull(file, b, int64(at)); err != nil {
		return nil, err
	}
	t.l1 = make([]uint64, need)
	for i := range t.l1 {
		t.l1[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	pages := (need*t.perTable + t.perPage - 1) / t.perPage
	keep := int64(keepBytes)
	if h.backing != "" {
		keep = keepChildBytes
	}
	t.pages = paged.New(min(pages, keepPages, keep/(t.perPage*t.entrySize)), t.load)
	return t, nil
}

// check looks at the L1 table: every L2 table is a cluster of the file, and no
// two are the same one, without which a small file could have a map without end.
func (t *table) check() error {
	tables := 0
	for _, e := range t.l1 {
		if e&offsetMask != 0 {
			tables++
		}
	}
	seen := make([]uint64, 0, tables)
	for i, e := range t.l1 {
		at := e & offsetMask
		switch {
		case e == 0:
			continue
		case e&l1Reserved != 0:
			return vdisk.BadFormat("L1 entry %d is %#x, with reserved bits", i, e)
		case at == 0:
			continue // says only that nobody shares it
		case at%uint64(t.clusterSize) != 0:
			return vdisk.BadFormat("L2 table %d is at %d, which is no cluster", i, at)
		case at > uint64(t.file.Size()) || uint64(t.file.Size())-at < uint64(t.clusterSize):
			return vdisk.Truncated("L2 table %d is at %d, file ends at %d", i, at, t.file.Size())
		}
		seen = append(seen, at)
	}
	slices.Sort(seen)
	for i := 1; i < len(seen); i++ {
		if seen[i] == seen[i-1] {
			return vdisk.BadFormat("L2 table at %d is used twice", seen[i])
		}
	}
	return nil
}

// load reads a page of an L2 table.
func (t *table) load(number int64) ([]byte, error) {
	first := number * t.perPage
	at := t.l1[first/t.perTable] & offsetMask
	if at == 0 {
		return nil, nil
	}
	b := make([]byte, t.perPage*t.entrySize)
	return b, vdisk.ReadFull(t.file, b, int64(at)+first%t.perTable*t.entrySize)
}

// kind is how a stretch of the disk is stored.
type kind uint8

const (
	absent     kind = iota // the backing file's
	zero                   // zeros, whatever the backing file has
	stored                 // in the file as it is
	compressed             // one compressed cluster
)

// run is a stretch of the disk that is stored in one way. at is where in the
// file its first byte is, if stored, and the L2 entry, if compressed.
type run struct {
	kind   kind
	at     int64
	length int64
}

// run returns the longest run from off on, not beyond to nor one page of an L2
// table. Stored runs are in one piece in the file.
func (t *table) run(off, to int64) (run, error) {
	number := off >> t.clusterBits / t.perPage
	page, err := t.pages.Get(number)
	if err != nil {
		return run{}, err
	}
	if page == nil {
		whole := t.perTable << t.clusterBits
		return run{kind: absent, length: min(to, (off/whole+1)*whole) - off}, nil
	}
	to = min(to, (number+1)*t.perPage<<t.clusterBits)
	r, err := t.piece(page, off, to)
	for err == nil && off+r.length < to && r.kind != compressed {
		var next run
		if next, err = t.piece(page, off+r.length, to); err != nil || next.kind != r.kind {
			break
		}
		if r.kind == stored && next.at != r.at+r.length {
			break
		}
		r.length += next.length
	}
	// What comes after is its own reader's error.
	if r.length > 0 {
		err = nil
	}
	return r, err
}

// piece is a run inside one cluster.
func (t *table) piece(page []byte, off, to int64) (run, error) {
	cluster, inside := off>>t.clusterBits, off&(t.clusterSize-1)
	b := page[cluster%t.perPage*t.entrySize:]
	e := binary.BigEndian.Uint64(b)
	r := run{length: min(to-off, t.clusterSize-inside)}
	if e&isCompressed != 0 {
		r.kind, r.at = compressed, int64(e&^(1<<63|isCompressed))
		return r, nil
	}
	at := int64(e & offsetMask)
	switch {
	case e&l2Reserved != 0 || e&isZero != 0 && (t.version < 3 || t.extended):
		return run{}, vdisk.BadFormat("L2 entry of cluster %d is %#x, with reserved bits", cluster, e)
	case at&(t.clusterSize-1) != 0:
		return run{}, vdisk.BadFormat("cluster %d is at %d, which is no cluster of the file", cluster, at)
	case t.extended:
		var err error
		if r.kind, r.length, err = t.subclusters(binary.BigEndian.Uint64(b[8:]), cluster, at, inside, r.length); err != nil {
			return run{}, err
		}
	case e&isZero != 0:
		r.kind = zero
	case at != 0:
		r.kind = stored
	}
	if r.kind != stored {
		return r, nil
	}
	r.at = at + inside
	// QEMU cuts the file where the disk ends inside its last cluster.
	if need := inside + min(r.length, t.diskSize-off); at > t.file.Size() || need > t.file.Size()-at {
		return run{}, vdisk.Truncated("cluster %d (disk offset %d) is at %d, file ends at %d", cluster, cluster<<t.clusterBits, at, t.file.Size())
	}
	return r, nil
}

// subclusters reads the bitmap of an extended entry: the low half says which
// parts are stored, the high half which are zeros. It returns what the part at
// inside is, and how many bytes, at most length, are like it.
func (t *table) subclusters(bitmap uint64, cluster, at, inside, length int64) (kind, int64, error) {
	stores, zeros := uint32(bitmap), uint32(bitmap>>32)
	if stores&zeros != 0 || stores != 0 && at == 0 {
		return absent, 0, vdisk.BadFormat("cluster %d at %d has subclusters %#x", cluster, at, bitmap)
	}
	size := t.clusterSize / subclusters
	first := uint(inside / size)
	k, like := absent, ^(stores | zeros)
	switch {
	case stores>>first&1 != 0:
		k, like = stored, stores
	case zeros>>first&1 != 0:
		k, like = zero, zeros
	}
	n := int64(bits.TrailingZeros32(^(like >> first))) // the shift brings in zeros, which end it
	return k, min(length, (int64(first)+n)*size-inside), nil
}
