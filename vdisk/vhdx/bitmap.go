package vhdx

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/paged"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// bitmaps reads the sector bitmaps: for each chunk one of 1 MiB, with a bit for
// every logical sector, low bits first, that is set where the sector is in this
// image. Section 2.5.1.2.
type bitmaps struct {
	t      *table
	sector int64
	pages  *paged.Cache[[]byte]
}

const (
	bitmapPage      = 64 << 10
	bitmapPages     = int64(layout.BitmapSize / bitmapPage) // of a chunk
	maxBitmapPages  = 16                                    // only images with a parent have any
	bitsOfPage      = bitmapPage * 8
	errNoBitmapText = "the sector bitmap of chunk %d is not present"
)

func newBitmaps(t *table, sector int64) bitmaps {
	b := bitmaps{t: t, sector: sector}
	b.pages = paged.New(min(maxBitmapPages, max(1, t.Blocks)), b.load)
	return b
}

// at returns where the bitmap of a chunk is.
func (b *bitmaps) at(chunk int64) (int64, error) {
	e, err := b.t.entry(b.t.BitmapIndex(chunk))
	if err != nil {
		return 0, err
	}
	return b.place(chunk, e)
}

// place interprets the entry of a chunk's bitmap and checks that the bitmap is
// in the file.
func (b *bitmaps) place(chunk int64, e uint64) (int64, error) {
	switch state := e & layout.StateMask; {
	case state == layout.NotPresent:
		return 0, vdisk.BadFormat(errNoBitmapText, chunk)
	case state != layout.FullyPresent:
		return 0, vdisk.BadFormat("the sector bitmap of chunk %d has state %d", chunk, state)
	case e&layout.ReservedMask != 0:
		return 0, vdisk.BadFormat("the sector bitmap of chunk %d has entry %#x with reserved bits", chunk, e)
	}
	offset := e &^ (layout.StateMask | layout.ReservedMask)
	if size := uint64(b.t.v.Size()); offset > size || uint64(layout.BitmapSize) > size-offset {
		return 0, vdisk.Truncated("the sector bitmap of chunk %d needs %d bytes at %d, file ends at %d", chunk, layout.BitmapSize, offset, size)
	}
	if offset == 0 {
		return 0, vdisk.BadFormat("the sector bitmap of chunk %d is present and has no place", chunk)
	}
	return int64(offset), nil
}

// load reads a page of a chunk's bitmap.
func (b *bitmaps) load(number int64) ([]byte, error) {
	chunk := number / bitmapPages
	at, err := b.at(chunk)
	if err != nil {
		return nil, err
	}
	page := make([]byte, bitmapPage)
	if err := vdisk.ReadFull(b.t.v, page, at+number%bitmapPages*bitmapPage); err != nil {
		return nil, fmt.Errorf("read sector bitmap of chunk %d: %w", chunk, err)
	}
	return page, nil
}

var errNoSectors = errors.New("internal error: no sectors asked for")

// run returns whether the bytes of a block at inside are in this image, and for
// how many of the next length bytes that stays so.
func (b *bitmaps) run(block, inside, length int64) (here bool, n int64, err error) {
	if length <= 0 {
		return false, 0, errNoSectors
	}
	perBlock := b.t.BlockSize / b.sector
	first := block&(int64(1)<<b.t.RatioShift-1)*perBlock + inside/b.sector // bit in the chunk's bitmap
	last := first + (inside%b.sector+length-1)/b.sector
	chunk := b.t.Chunk(block)
	bit := first
	for bit <= last {
		page, err := b.pages.Get(chunk*bitmapPages + bit/bitsOfPage)
		if err != nil {
			return false, 0, err
		}
		from := bit % bitsOfPage
		if bit == first {
			here = page[from/8]>>(from%8)&1 != 0
		}
		end := same(page, from, min(bitsOfPage, from+last-bit+1), here)
		bit += end - from
		if end < bitsOfPage {
			break
		}
	}
	if bit > last {
		return here, length, nil
	}
	return here, (bit-first)*b.sector - inside%b.sector, nil
}

// same returns the first bit from from on, up to end, that is not want.
func same(page []byte, from, end int64, want bool) int64 {
	var flip byte
	if want {
		flip = 0xFF
	}
	for from < end {
		rest := (page[from/8] ^ flip) >> (from % 8)
		if rest != 0 {
			return min(end, from+int64(bits.TrailingZeros8(rest)))
		}
		from = from/8*8 + 8
	}
	return end
}
