package layout

import "math/bits"

// State of a payload block: the low three bits of its entry, section 2.5.1.1.
// A sector bitmap has NotPresent or FullyPresent.
const (
	NotPresent       = 0
	Undefined        = 1
	Zero             = 2
	Unmapped         = 3
	UnmappedOld      = 5 // as drafts of the format had it; reserved now
	FullyPresent     = 6
	PartiallyPresent = 7

	StateMask    = 0x7
	ReservedMask = 0xFFFF8 // bits 3 to 19; the rest is the offset in MiB
)

// EntrySize is the size of an entry of the BAT. Readers and writers hold the table
// in pages of 64 KiB.
const (
	EntrySize   = 8
	PageEntries = 8192
	PageSize    = PageEntries * EntrySize
)

// BitmapSize is the size of a sector bitmap block, which has a bit for each
// sector of its chunk. Section 2.5.
const BitmapSize = MiB

// Geometry is the arithmetic of a block allocation table: an entry for each
// payload block, and after every chunk of them one for the chunk's sector
// bitmap, which only differencing images use but all have. Section 2.5.
type Geometry struct {
	Blocks     int64 // payload blocks
	BlockSize  int64
	DiskSize   int64
	RatioShift int // blocks in a chunk, as a power of two
	bitmaps    bool
}

// NewGeometry returns the geometry of an image.
func NewGeometry(m Metadata) Geometry {
	ratio := (int64(1) << 23) * int64(m.LogicalSector) / m.BlockSize // section 2.5
	return Geometry{
		BlockSize: m.BlockSize, DiskSize: m.DiskSize, bitmaps: m.HasParent,
		Blocks:     (m.DiskSize + m.BlockSize - 1) / m.BlockSize,
		RatioShift: bits.TrailingZeros64(uint64(ratio)),
	}
}

// Length is the number of entries: up to the last payload block's, or, where
// there is a parent, up to the last chunk's sector bitmap.
func (g Geometry) Length() int64 {
	switch {
	case g.Blocks == 0:
		return 0
	case g.bitmaps:
		return g.BitmapIndex(g.Chunk(g.Blocks-1)) + 1
	}
	return g.Index(g.Blocks-1) + 1
}

// Index returns the place of a block's entry.
func (g Geometry) Index(block int64) int64 { return block + block>>g.RatioShift }

// Chunk returns the chunk of a block.
func (g Geometry) Chunk(block int64) int64 { return block >> g.RatioShift }

// BitmapIndex returns the place of the entry of a chunk's sector bitmap.
func (g Geometry) BitmapIndex(chunk int64) int64 { return (chunk+1)<<g.RatioShift + chunk }

// IsBitmap reports whether the entry at index i is a sector bitmap's.
func (g Geometry) IsBitmap(i int64) bool { return (i+1)%(int64(1)<<g.RatioShift+1) == 0 }

// BlockAt returns the block whose entry is at index i, or, when that is a
// sector bitmap's, the next block.
func (g Geometry) BlockAt(i int64) int64 { return i - i/(int64(1)<<g.RatioShift+1) }

// Used returns how many bytes of a block belong to the disk.
func (g Geometry) Used(block int64) int64 {
	return min(g.BlockSize, g.DiskSize-block*g.BlockSize)
}
