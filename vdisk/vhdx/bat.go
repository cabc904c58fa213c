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
	// with the usual block sizes that is all of them. Of images with a parent, of
	// which a chain may have many, it is 2 MiB.
	maxPages      = 256
	maxChildPages = 32
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

type page [layout.PageEntries]uint64

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
		return nil, vdisk.BadFormat("BAT needs %d bytes, its region has %d", n, r.Length)
	}
	t.status = make([]atomic.Uint32, t.pageCount())
	keep := int64(maxPages)
	if t.parent {
		keep = maxChildPages
	}
	t.pages = paged.New(min(t.pageCount(), keep), t.load)
	t.bitmap = newBitmaps(t, int64(m.LogicalSector))
	return t, nil
}

func (t *table) pageCount() int64 { return (t.Length() + layout.PageEntries - 1) / layout.PageEntries }

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
	p, err := t.pages.Get(i / layout.PageEntries)
	if err != nil {
		return 0, err
	}
	return p[i%layout.PageEntries], nil
}

// empty reports whether it is known that all blocks of this block's page are
// absent.
func (t *table) empty(block int64) bool {
	return t.status[t.Index(block)/layout.PageEntries].Load() == pageEmpty
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
	first := number * layout.PageEntries
	n := min(layout.PageEntries, t.Length()-first)
	buf, p := make([]byte, n*layout.EntrySize), new(page)
	if err := vdisk.ReadFull(t.v, buf, t.at+first*layout.EntrySize); err != nil {
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
		// parent's. A place that is still in the entry is not read, but nobody
		// else's: see checkPage.
		return place{kind: vdisk.Zero}, nil
	case layout.FullyPresent:
	case layout.PartiallyPresent:
		if !t.parent {
			return place{}, vdisk.BadFormat("block %d is partially present in an image without parent", block)
		}
		if _, err := t.bitmap.at(t.Chunk(block)); err != nil {
			return place{}, fmt.Errorf("block %d is partially present: %w", block, err)
		}
		p.part = true
	default:
		return place{}, vdisk.BadFormat("block %d has state %d", block, state)
	}
	if e&layout.ReservedMask != 0 {
		return place{}, vdisk.BadFormat("block %d has entry %#x with reserved bits", block, e)
	}
	offset := e &^ (layout.StateMask | layout.ReservedMask)
	if offset == 0 {
		return place{}, vdisk.BadFormat("block %d is present and has no place", block)
	}
	// The last block of the disk counts as far as the disk goes: QEMU cuts
	// the file there.
	need := uint64(t.Used(block))
	if size := uint64(t.v.Size()); offset > size || need > size-offset {
		return place{}, vdisk.Truncated("block %d (disk offset %d) needs %d bytes at %d, file ends at %d",
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
		for n := max(done, (e.Offset-t.at)/layout.PageSize); n*layout.PageSize < e.End()-t.at; n++ {
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
	first := number * layout.PageEntries
	bitmap := (first+chunk)/chunk*chunk - 1 // the next entry that is a sector bitmap's
	block := t.BlockAt(first)
	for i, e := range p[:min(layout.PageEntries, t.Length()-first)] {
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
			if at.kind != vdisk.Data {
				claims.leave(e, t.BlockSize, t.v.Size())
			} else if !claims.taken.claim(at.at, min(t.BlockSize, t.v.Size()-at.at)) {
				return vdisk.BadFormat("block %d at %d overlaps another structure", block, at.at)
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
		claims.leave(e, layout.BitmapSize, t.v.Size())
		return nil
	}
	at, err := t.bitmap.place(chunk, e)
	if err == nil && !claims.taken.claim(at, layout.BitmapSize) {
		err = vdisk.BadFormat("sector bitmap of chunk %d at %d overlaps another structure", chunk, at)
	}
	return err
}

// alike returns the first block behind a block, not beyond to and on the same page,
// whose entry does not say the same: for a present block, that it follows in the
// file.
func (t *table) alike(block, to int64) (int64, error) {
	i := t.Index(block)
	p, err := t.pages.Get(i / layout.PageEntries)
	if err != nil {
		return 0, err
	}
	e, step := p[i%layout.PageEntries], uint64(0)
	if e&layout.StateMask == layout.FullyPresent {
		step = uint64(t.BlockSize)
		// What is cut off by the end of the file is looked at by itself.
		room := (t.v.Size() - int64(e&^(layout.StateMask|layout.ReservedMask))) / t.BlockSize
		to = min(to, block+max(1, room))
	}
	for block++; block < to; block++ {
		if e += step; p[t.Index(block)%layout.PageEntries] != e {
			break
		}
	}
	return block, nil
}
