package vhdx

import (
	"context"
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/millrace-backup/millrace/vdisk/overlay"
)

// The block allocation table holds 64 bits for each payload block, and after
// every ratio of them 64 bits for the sector bitmap of that chunk, which only
// differencing images use but all have. Section 2.5.

// State of a payload block: the low three bits of its entry, section 2.5.1.1.
const (
	stateNotPresent       = 0
	stateUndefined        = 1
	stateZero             = 2
	stateUnmapped         = 3
	stateUnmappedOld      = 5 // as drafts of the format had it; reserved now
	stateFullyPresent     = 6
	statePartiallyPresent = 7

	stateMask    = 0x7
	reservedMask = 0xFFFF8 // bits 3 to 19; the rest is the offset in MiB
)

const (
	entrySize = 8
	// The table is read in pages of 64 KiB. A 64 TiB disk of 1 MiB blocks has
	// 512 MiB of entries, so no more than 16 MiB of them are held at a time;
	// with the usual block sizes that is all of them.
	pageEntries = 8192
	pageSize    = pageEntries * entrySize
	maxPages    = 256
)

// table reads the BAT. Pages are loaded when first needed, into the one slot
// that their number gives.
type table struct {
	v  *overlay.Image
	at int64 // in the file
	geometry

	slots  []atomic.Pointer[page]
	filled []uint64 // bit per page: it has present blocks
}

type page struct {
	number  int64
	entries [pageEntries]uint64
}

// geometry is the arithmetic of a table, which reading and creating share.
type geometry struct {
	blocks     int64 // payload blocks
	blockSize  int64
	diskSize   int64
	ratioShift int // blocks in a chunk, as a power of two
}

func newGeometry(m metadata) geometry {
	ratio := (int64(1) << 23) * int64(m.logicalSector) / m.blockSize // section 2.5
	return geometry{
		blockSize: m.blockSize, diskSize: m.diskSize,
		blocks:     (m.diskSize + m.blockSize - 1) / m.blockSize,
		ratioShift: bits.TrailingZeros64(uint64(ratio)),
	}
}

// newTable checks that the BAT fits its region. The entries are not read yet.
func newTable(v *overlay.Image, r region, m metadata) (*table, error) {
	t := &table{v: v, at: r.offset, geometry: newGeometry(m)}
	if n := t.length() * entrySize; n > r.length {
		return nil, badFormat("BAT needs %d bytes, its region has %d", n, r.length)
	}
	pages := (t.length() + pageEntries - 1) / pageEntries
	t.slots = make([]atomic.Pointer[page], min(pages, maxPages))
	t.filled = make([]uint64, (pages+63)/64)
	return t, nil
}

// length is the number of entries, that of the sector bitmaps included, up to
// the one of the last payload block.
func (t geometry) length() int64 {
	if t.blocks == 0 {
		return 0
	}
	return t.index(t.blocks-1) + 1
}

// index returns the place of a block's entry.
func (t geometry) index(block int64) int64 { return block + block>>t.ratioShift }

// blockAt returns the block whose entry is at index i, or, when that is a
// sector bitmap's, the next block.
func (t geometry) blockAt(i int64) int64 { return i - i/(int64(1)<<t.ratioShift+1) }

// block returns where in the file a block begins; present is false when it
// reads as zeros.
func (t *table) block(block int64) (at int64, present bool, err error) {
	if t.empty(block) {
		return 0, false, nil
	}
	i := t.index(block)
	number := i / pageEntries
	slot := &t.slots[number%int64(len(t.slots))]
	p := slot.Load()
	if p == nil || p.number != number {
		p = &page{number: number}
		if err := t.load(p, make([]byte, pageSize)); err != nil {
			return 0, false, err
		}
		slot.Store(p)
	}
	return t.place(block, p.entries[i%pageEntries])
}

// empty reports whether no block of this block's page is present.
func (t *table) empty(block int64) bool {
	number := t.index(block) / pageEntries
	return t.filled[number/64]&(1<<(number%64)) == 0
}

// load fills p with the entries of its page. buf has pageSize bytes.
func (t *table) load(p *page, buf []byte) error {
	first := p.number * pageEntries
	n := min(pageEntries, t.length()-first)
	if err := readFull(t.v, buf[:n*entrySize], t.at+first*entrySize); err != nil {
		return fmt.Errorf("read BAT from entry %d: %w", first, err)
	}
	for i := range n {
		p.entries[i] = le64(buf[i*entrySize:])
	}
	clear(p.entries[n:])
	return nil
}

// place interprets the entry of a block and checks that the block is in the
// file. Section 2.5.1.1.
func (t *table) place(block int64, e uint64) (at int64, present bool, err error) {
	switch state := e & stateMask; state {
	case stateNotPresent, stateUndefined, stateZero, stateUnmapped, stateUnmappedOld:
		// Undefined and unmapped blocks may read as anything; an offset that
		// is still in the entry means nothing.
		return 0, false, nil
	case stateFullyPresent:
	case statePartiallyPresent:
		return 0, false, badFormat("block %d is partially present in an image without parent", block)
	default:
		return 0, false, badFormat("block %d has state %d", block, state)
	}
	if e&reservedMask != 0 {
		return 0, false, badFormat("block %d has entry %#x with reserved bits", block, e)
	}
	offset := e &^ (stateMask | reservedMask)
	if offset == 0 {
		return 0, false, badFormat("block %d is present and has no place", block)
	}
	// The last block of the disk counts as far as the disk goes: QEMU cuts
	// the file there.
	need := uint64(t.used(block))
	if size := uint64(t.v.Size()); offset > size || need > size-offset {
		return 0, false, truncated("block %d (disk offset %d) needs %d bytes at %d, file ends at %d",
			block, block*t.blockSize, need, offset, size)
	}
	return int64(offset), true, nil
}

// used returns how many bytes of a block belong to the disk.
func (t geometry) used(block int64) int64 {
	return min(t.blockSize, t.diskSize-block*t.blockSize)
}

// check reads all entries once, claims the place of every present block, and
// notes which pages have any. Holes of the file are absent entries and not
// read, so that the table of a large, empty disk costs nothing.
func (t *table) check(claims *claims) error {
	buf, p := make([]byte, pageSize), new(page)
	done := int64(0) // pages
	end := t.at + t.length()*entrySize
	for e, err := range t.v.Extents(context.Background(), t.at, end) {
		if err != nil {
			return fmt.Errorf("map BAT: %w", err)
		}
		if e.Kind != 0 || e.Length == 0 {
			continue
		}
		for p.number = max(done, (e.Offset-t.at)/pageSize); p.number*pageSize < e.End()-t.at; p.number++ {
			if err := t.load(p, buf); err != nil {
				return err
			}
			if err := t.checkPage(p, claims); err != nil {
				return err
			}
			done = p.number + 1
		}
	}
	return nil
}

func (t *table) checkPage(p *page, claims *claims) error {
	chunk := int64(1)<<t.ratioShift + 1
	first := p.number * pageEntries
	bitmap := (first+chunk)/chunk*chunk - 1 // the next entry that is a sector bitmap's
	block := t.blockAt(first)
	for i, e := range p.entries[:min(pageEntries, t.length()-first)] {
		if first+int64(i) == bitmap {
			bitmap += chunk // says nothing without a parent
			continue
		}
		if e != 0 {
			at, present, err := t.place(block, e)
			if err != nil {
				return err
			}
			if present {
				t.filled[p.number/64] |= 1 << (p.number % 64)
				if !claims.claim(at, t.used(block)) {
					return badFormat("block %d at %d overlaps another structure", block, at)
				}
			}
		}
		block++
	}
	return nil
}

// claims has a bit for every MiB of the file that a structure lies on. They
// are kept in pieces, which are made as needed: 128 KiB for each TiB.
type claims struct {
	pieces [maxFileSize / claimPiece]*[claimPiece / mib / 64]uint64
}

const claimPiece = 64 << 30 // bytes of the file

// claim takes the MiBs that off..off+length touches and reports whether all
// were free. off is a multiple of 1 MiB and the end below maxFileSize.
func (c *claims) claim(off, length int64) bool {
	at, end := off/mib, (off+length+mib-1)/mib
	for at < end {
		piece := &c.pieces[at/(claimPiece/mib)]
		if *piece == nil {
			*piece = new([claimPiece / mib / 64]uint64)
		}
		word, bit := at%(claimPiece/mib)/64, at%64
		n := min(64-bit, end-at)
		mask := (^uint64(0) >> (64 - n)) << bit
		if (*piece)[word]&mask != 0 {
			return false
		}
		(*piece)[word] |= mask
		at += n
	}
	return true
}
