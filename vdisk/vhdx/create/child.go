package create

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// Layer is what one image of a chain holds: vhdx.Image is one.
type Layer interface {
	// ReadAt reads the merged view.
	io.ReaderAt
	// Size is the size of the disk in bytes.
	Size() int64
	// Own lists what the layer has itself as vdisk.Data and vdisk.Zero, the rest
	// as vdisk.Inherited, as vdisk.Image.Extents lists a disk.
	Own(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error]
}

// Nothing is a layer of the given size that has nothing itself: a new checkpoint.
type Nothing int64

// ReadAt is never called on what is inherited.
func (n Nothing) ReadAt([]byte, int64) (int, error) {
	return 0, errors.New("a layer without content was read")
}

// Size is the size of the disk.
func (n Nothing) Size() int64 { return int64(n) }

// Own lists everything as inherited.
func (n Nothing) Own(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		if from < to {
			yield(vdisk.Extent{Offset: from, Length: to - from, Kind: vdisk.Inherited}, nil)
		}
	}
}

// Parent is the image that a new differencing image is laid on.
type Parent struct {
	Info vdisk.Info // of a VHDX image: its link, its disk id and its sectors are the child's
	// Where it is, as Windows has it; at least one.
	Relative string // ..\dir\base.vhdx, from the child's folder
	Volume   string // \\?\Volume{guid}\dir\base.vhdx
	Absolute string // \\?\C:\dir\base.vhdx
}

// Child writes what a layer holds itself into f as a differencing image on a
// parent, whose bytes it does not need. Options' Fixed and LogicalSector are not
// used: a child is never fixed, and has its parent's sectors. Where own parts and
// inherited ones meet must be a multiple of the sector. See [NewWriter] for what
// f must be and what a crash leaves.
func Child(ctx context.Context, f vdisk.File, from Layer, parent Parent, o Options) error {
	c, err := newChild(f, from, parent, o)
	if err == nil {
		err = c.copy(ctx)
	}
	if err != nil {
		return fmt.Errorf("create VHDX: %w", err)
	}
	return c.w.Finish()
}

// child fills blocks and sector bitmaps from front to back.
type child struct {
	w      *Writer
	from   Layer
	sector int64

	block int64 // that is being filled; -1: none
	at    int64 // where it is; 0: it has no place yet
	own   int64 // bytes of it that are not the parent's

	chunk  int64  // of the bitmap
	bitmap []byte // a bit for each sector of the chunk
	needed bool   // a block of the chunk is partially present
}

func newChild(f vdisk.File, from Layer, parent Parent, o Options) (*child, error) {
	link, ok1 := layout.ReadGUID(parent.Info.Link)
	disk, ok2 := layout.ReadGUID(parent.Info.DiskID)
	if parent.Info.Format != "vhdx" || !ok1 || !ok2 {
		return nil, vdisk.Unsupported("the parent of a VHDX image is a VHDX image, not %q", parent.Info.Format)
	}
	if parent.Relative == "" && parent.Volume == "" && parent.Absolute == "" {
		return nil, vdisk.Unsupported("a parent without a path")
	}
	o.LogicalSector, o.Fixed = parent.Info.LogicalSector, false
	w, err := newWriter(f, layout.Metadata{
		DiskSize: from.Size(), BlockSize: cmp.Or(o.BlockSize, defaultChildSize), DiskID: disk, HasParent: true,
		Locator: layout.Locator{Linkage: link, Relative: parent.Relative, Volume: parent.Volume, Absolute: parent.Absolute},
	}, o)
	if err != nil {
		return nil, err
	}
	if int64(len(layout.MetadataTable(w.meta.Items()))) > newMetadataSize {
		return nil, vdisk.Unsupported("paths of the parent that take more than a MiB")
	}
	return &child{w: w, from: from, sector: int64(o.LogicalSector), block: -1, bitmap: make([]byte, layout.BitmapSize)}, nil
}

func (c *child) copy(ctx context.Context) error {
	size := c.from.Size()
	for e, err := range c.from.Own(ctx, 0, size) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if e.Kind == vdisk.Inherited {
			if e.Offset%c.sector != 0 || e.End()%c.sector != 0 {
				return vdisk.Unsupported("inherited bytes %d..%d with sectors of %d", e.Offset, e.End(), c.sector)
			}
			continue
		}
		for off := e.Offset; off < e.End(); {
			n := min(e.End()-off, c.w.BlockSize-off%c.w.BlockSize)
			if err := c.add(ctx, off, n, e.Kind); err != nil {
				return err
			}
			off += n
		}
	}
	return c.endChunk()
}

// add takes length bytes of one block that are not the parent's.
func (c *child) add(ctx context.Context, off, length int64, kind vdisk.Kind) error {
	if block := off / c.w.BlockSize; block != c.block {
		c.endBlock()
		if c.w.Chunk(block) != c.chunk {
			if err := c.endChunk(); err != nil {
				return err
			}
			c.chunk = c.w.Chunk(block)
		}
		c.block, c.at, c.own = block, 0, 0
	}
	c.own += length
	first := off % (c.w.BlockSize << c.w.RatioShift) / c.sector
	last := (off + length - 1) % (c.w.BlockSize << c.w.RatioShift) / c.sector
	for bit := first; bit <= last; bit++ {
		c.bitmap[bit/8] |= 1 << (bit % 8)
	}
	if kind != vdisk.Data {
		return nil
	}
	return vdisk.Copy(ctx, c, piece{c.from, vdisk.Extent{Offset: off, Length: length}})
}

// piece is a layer of which one extent is to be copied.
type piece struct {
	Layer
	e vdisk.Extent
}

// Extents lists the extent.
func (p piece) Extents(context.Context, int64, int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) { yield(p.e, nil) }
}

// WriteAt writes into the block that is being filled.
func (c *child) WriteAt(p []byte, off int64) (int, error) {
	c.locate()
	return len(p), c.w.write(p, c.at+off%c.w.BlockSize)
}

func (c *child) locate() {
	if c.at == 0 {
		c.at = c.w.allocate(c.w.BlockSize)
	}
}

// endBlock sets the entry of the block that was filled.
func (c *child) endBlock() {
	if c.block < 0 || c.own == 0 {
		return
	}
	entry := uint64(layout.Zero)
	switch {
	case c.own < c.w.Used(c.block):
		// Zeros need a place too: only a bit of the bitmap tells them from the
		// parent's bytes.
		c.locate()
		c.needed = true
		entry = uint64(c.at) | layout.PartiallyPresent
	case c.at != 0:
		entry = uint64(c.at) | layout.FullyPresent
	}
	c.w.setEntry(c.w.Index(c.block), entry)
	c.block = -1
}

// endChunk writes the sector bitmap of the chunk that was filled, if any of its
// blocks needs it.
func (c *child) endChunk() error {
	c.endBlock()
	defer clear(c.bitmap)
	if !c.needed {
		return nil
	}
	c.needed = false
	at := c.w.allocate(layout.BitmapSize)
	c.w.setEntry(c.w.BitmapIndex(c.chunk), uint64(at)|layout.FullyPresent)
	return c.w.write(c.bitmap, at)
}
