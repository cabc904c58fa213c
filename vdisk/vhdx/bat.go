package vhdx

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/paged"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

const (
	// The table is read in pages of 64 KiB. A 64 TiB disk of 1 MiB blocks has
	// 512 MiB of entries, so no more than 16 MiB of them are held at a time;
	// with the usual block sizes that is all of them.
	pageEntries = 8192
	pageSize    = pageEntries * layout.EntrySize
	maxPages    = 256
)

// table reads the BAT. Section 2.5.
type table struct {
	v  *overlay.Image
	at int64 // in the file
	layout.Geometry
	parent bool // there is one: absent blocks are its

	pages  *paged.Cache[*page]
	status []atomic.Uint32 // of each page
	bitmap bitmaps
}

// What is known of a page.
const (
	pageEmpty  = iota // every block in it is NotPresent
	pageUnread        // never seen
	pageFilled
)

type page [pageEntries]uint64

// place is what the table says of a block.
type place struct {
	kind vdisk.Kind // Data, Zero or Inherited
	at   int64      // of Data: where it begins
	part bool       // of Data: sectors that the bitmap does not name are the parent's
}

// newTable checks that the BAT fits its region. The entries are not read yet.
func newTable(v *overlay.Image, r layout.Region, m layout.Metadata) (*table, error) {
	t := &table{v: v, at: r.Offset, Geometry: layout.NewGeometry(m), parent: m.HasParent}
	if n := t.Length() * layout.EntrySize; n > r.Length {
		return nil, layout.BadFormat("BAT needs %d bytes, its region has %d", n, r.Length)
	}
	t.status = make([]atomic.Uint32, t.pageCount())
	t.pages = paged.New(min(t.pageCount(), maxPages), t.load)
	t.bitmap = newBitmaps(t, int64(m.LogicalSector))
	return t, nil
}

func (t *table) pageCount() int64 { return (t.Length() + pageEntries - 1) / pageEntries }

// block returns where a block is.
func (t *table) block(block int64) (place, error) {
	if t.empty(block) {
		return t.absent(), nil
	}
	e, err := t.entry(t.Index(block))
	if err != nil {
		return place{}, err
	}
	return t.place(block, e)
}

// entry returns the entry at index i.
func (t *table) entry(i int64) (uint64, error) {
	p, err := t.pages.Get(i / pageEntries)
	if err != nil {
		return 0, err
	}
	return p[i%pageEntries], nil
}

// empty reports whether it is known that all blocks of this block's page are
// absent.
func (t *table) empty(block int64) bool {
	return t.status[t.Index(block)/pageEntries].Load() == pageEmpty
}

// absent is what a block is that the image does not have.
func (t *table) absent() place {
	if t.parent {
		return place{kind: vdisk.Inherited}
	}
	return place{kind: vdisk.Zero}
}

// load reads a page and notes whether it has blocks.
func (t *table) load(number int64) (*page, error) {
	first := number * pageEntries
	n := min(pageEntries, t.Length()-first)
	buf, p := make([]byte, n*layout.EntrySize), new(page)
	if err := layout.ReadFull(t.v, buf, t.at+first*layout.EntrySize); err != nil {
		return nil, fmt.Errorf("read BAT from entry %d: %w", first, err)
	}
	status := uint32(pageEmpty)
	for i := range n {
		if p[i] = binary.LittleEndian.Uint64(buf[i*layout.EntrySize:]); p[i] != 0 {
			status = pageFilled
		}
	}
	t.status[number].Store(status)
	return p, nil
}

// place interprets the entry of a block and checks that the block is in the
// file. Section 2.5.1.1.
func (t *table) place(block int64, e uint64) (place, error) {
	p := place{kind: vdisk.Data}
	switch state := e & layout.StateMask; state {
	case layout.NotPresent:
		return t.absent(), nil
	case layout.Undefined, layout.Zero, layout.Unmapped, layout.UnmappedOld:
		// Undefined and unmapped blocks may read as anything, but not as the
		// parent's; an offset that is still in the entry means nothing.
		return place{kind: vdisk.Zero}, nil
	case layout.FullyPresent:
	case layout.PartiallyPresent:
		if !t.parent {
			return place{}, layout.BadFormat("block %d is partially present in an image without parent", block)
		}
		if _, err := t.bitmap.at(t.Chunk(block)); err != nil {
			return place{}, fmt.Errorf("block %d is partially present: %w", block, err)
		}
		p.part = true
	default:
		return place{}, layout.BadFormat("block %d has state %d", block, state)
	}
	if e&layout.ReservedMask != 0 {
		return place{}, layout.BadFormat("block %d has entry %#x with reserved bits", block, e)
	}
	offset := e &^ (layout.StateMask | layout.ReservedMask)
	if offset == 0 {
		return place{}, layout.BadFormat("block %d is present and has no place", block)
	}
	// The last block of the disk counts as far as the disk goes: QEMU cuts
	// the file there.
	need := uint64(t.Used(block))
	if size := uint64(t.v.Size()); offset > size || need > size-offset {
		return place{}, layout.Truncated("block %d (disk offset %d) needs %d bytes at %d, file ends at %d",
			block, block*t.BlockSize, need, offset, size)
	}
	p.at = int64(offset)
	return p, nil
}

// survey notes which pages lie in a hole of the file: they are absent entries
// and are never read, so that the table of a large, empty disk costs nothing. It
// returns the numbers of the others.
func (t *table) survey(ctx context.Context) ([]int64, error) {
	var pages []int64
	done, end := int64(0), t.Length()*layout.EntrySize
	for e, err := range t.v.Extents(ctx, t.at, t.at+end) {
		if err != nil {
			return nil, fmt.Errorf("map BAT: %w", err)
		}
		if e.Kind != vdisk.Data {
			continue
		}
		for n := max(done, (e.Offset-t.at)/pageSize); n*pageSize < e.End()-t.at; n++ {
			t.status[n].Store(pageUnread)
			pages = append(pages, n)
			done = n + 1
		}
	}
	return pages, nil
}

// check reads pages and claims the place of every block in them.
func (t *table) check(ctx context.Context, pages []int64, claims *claims) error {
	for _, n := range pages {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, err := t.pages.Get(n)
		if err != nil {
			return err
		}
		if err := t.checkPage(n, p, claims); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) checkPage(number int64, p *page, claims *claims) error {
	chunk := int64(1)<<t.RatioShift + 1
	first := number * pageEntries
	bitmap := (first+chunk)/chunk*chunk - 1 // the next entry that is a sector bitmap's
	block := t.BlockAt(first)
	for i, e := range p[:min(pageEntries, t.Length()-first)] {
		if first+int64(i) == bitmap {
			if err := t.checkBitmap(bitmap/chunk, e, claims); err != nil {
				return err
			}
			bitmap += chunk
			continue
		}
		if e != 0 && block < t.Blocks { // behind the last block is padding
			at, err := t.place(block, e)
			if err != nil {
				return err
			}
			if at.kind == vdisk.Data && !claims.claim(at.at, min(t.BlockSize, t.v.Size()-at.at)) {
				return layout.BadFormat("block %d at %d overlaps another structure", block, at.at)
			}
		}
		block++
	}
	return nil
}

// checkBitmap claims the place of a chunk's sector bitmap. Without a parent the
// entry says nothing.
func (t *table) checkBitmap(chunk int64, e uint64, claims *claims) error {
	if !t.parent || e&layout.StateMask == layout.NotPresent {
		return nil
	}
	at, err := t.bitmap.place(chunk, e)
	if err == nil && !claims.claim(at, layout.BitmapSize) {
		err = layout.BadFormat("sector bitmap of chunk %d at %d overlaps another structure", chunk, at)
	}
	return err
}

// claims has a bit for every MiB of the file that a structure lies on. They
// are kept in pieces, which are made as needed: 128 KiB for each TiB.
type claims struct {
	pieces [layout.MaxFileSize / claimPiece]*[claimPiece / layout.MiB / 64]uint64
}

const claimPiece = 64 << 30 // bytes of the file

// claim takes the MiBs that off..off+length touches and reports whether all
// were free. off is a multiple of 1 MiB and the end below MaxFileSize.
func (c *claims) claim(off, length int64) bool {
	at, end := off/layout.MiB, (off+length+layout.MiB-1)/layout.MiB
	for at < end {
		piece := &c.pieces[at/(claimPiece/layout.MiB)]
		if *piece == nil {
			*piece = new([claimPiece / layout.MiB / 64]uint64)
		}
		word, bit := at%(claimPiece/layout.MiB)/64, at%64
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

// free returns the stretches of 0..size that nobody has claimed, at most limit of
// them.
func (c *claims) free(size int64, limit int) []vdisk.Extent {
	var out []vdisk.Extent
	size -= size % layout.MiB
	for at := int64(0); at+layout.MiB <= size; {
		piece := c.pieces[at/claimPiece]
		length := layout.MiB
		if piece == nil {
			length = min(size, (at/claimPiece+1)*claimPiece) - at
		} else if word := piece[at%claimPiece/layout.MiB/64]; word&(1<<(at/layout.MiB%64)) != 0 {
			if word == ^uint64(0) && at%(64*layout.MiB) == 0 {
				length = 64 * layout.MiB
			}
			at += length
			continue
		}
		if n := len(out); n > 0 && out[n-1].End() == at {
			out[n-1].Length += length
		} else if n < limit {
			out = append(out, vdisk.Extent{Offset: at, Length: length})
		} else {
			break
		}
		at += length
	}
	return out
}
