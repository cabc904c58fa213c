package vhdx

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"unicode/utf16"

	"github.com/millrace-backup/millrace/vdisk"
)

// File is a new, empty file that an image is written to, as *os.File is.
type File interface {
	io.WriterAt
	io.Seeker
	Sync() error
}

// CreateOptions are the choices of who makes an image; the zero value is what
// Hyper-V makes by default.
type CreateOptions struct {
	BlockSize      int64     // a power of two from 1 to 256 MiB; 0: 32 MiB
	LogicalSector  int       // 512 or 4096; 0: 512. QEMU reads 512 only
	PhysicalSector int       // 512 or 4096; 0: 4096
	Fixed          bool      // every block has its place, whether it holds data or not
	Random         io.Reader // of ids; nil: crypto/rand
}

// Where Create puts the parts of a file. Blocks follow the BAT.
const (
	newLogAt, newLogSize       = 1 * mib, 1 * mib
	newMetadataAt, newMetadata = 2 * mib, 1 * mib
	newBATAt                   = 3 * mib

	copyPiece        = mib     // read at once; divides every block size
	copyGrain        = 4 * kib // zeros of this size and alignment are not written
	defaultBlockSize = 32 * mib
)

// Create writes the disk from into f as a VHDX image. Only what is not zero is
// written: a dynamic image has no blocks for the rest, and blocks that are
// partly zero have holes where the file system of f makes them. The size of the
// disk must be a multiple of the logical sector.
//
// f must be empty, which is checked; the error is fs.ErrExist when it is not.
// Everything is on the disk when Create returns nil. Until then the file is no
// valid image: whoever opens it meets a file without headers, not one with
// blocks missing. Its name is the caller's to make durable, and the file his
// to remove when Create fails.
func Create(ctx context.Context, f File, from vdisk.Image, o CreateOptions) error {
	c, err := newCreator(f, from, o)
	if err == nil {
		err = c.create(ctx)
	}
	if err != nil {
		return fmt.Errorf("create VHDX: %w", err)
	}
	return nil
}

type creator struct {
	f    File
	from vdisk.Image
	o    CreateOptions
	meta metadata
	geometry

	batSize int64
	next    int64 // where the next block goes
	end     int64 // of what has been written
	zeros   []byte

	// The page of the BAT that is being filled: entries come in order.
	page   []byte
	number int64
}

func newCreator(f File, from vdisk.Image, o CreateOptions) (*creator, error) {
	if o.BlockSize == 0 {
		o.BlockSize = defaultBlockSize
	}
	if o.LogicalSector == 0 {
		o.LogicalSector = 512
	}
	if o.PhysicalSector == 0 {
		o.PhysicalSector = 4096
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	m := metadata{blockSize: o.BlockSize, diskSize: from.Size(), logicalSector: o.LogicalSector, physicalSector: o.PhysicalSector, fixed: o.Fixed}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", vdisk.ErrUnsupported, err)
	}
	var err error
	if m.diskID, err = newGUID(o.Random); err != nil {
		return nil, err
	}
	switch size, err := f.Seek(0, io.SeekEnd); {
	case err != nil:
		return nil, err
	case size != 0:
		return nil, fmt.Errorf("file has %d bytes, %w", size, fs.ErrExist)
	}
	c := &creator{f: f, from: from, o: o, meta: m, geometry: newGeometry(m), page: make([]byte, pageSize), zeros: make([]byte, copyGrain)}
	c.batSize = max(1, (c.length()*entrySize+mib-1)/mib) * mib
	c.next = newBATAt + c.batSize
	return c, nil
}

// newGUID draws a random GUID, version 4 of RFC 9562.
func newGUID(r io.Reader) (g guid, err error) {
	if _, err := io.ReadFull(r, g[:]); err != nil {
		return g, fmt.Errorf("draw an id: %w", err)
	}
	g[7] = g[7]&0x0F | 0x40 // the third field is little-endian
	g[8] = g[8]&0x3F | 0x80
	return g, nil
}

// create writes the parts in the order that keeps a torn file recognisable.
func (c *creator) create(ctx context.Context) error {
	// The identifier is first: a file that stays behind unfinished is then
	// taken for a broken VHDX image and not for a raw one.
	if err := c.write(identifier(), 0); err != nil {
		return err
	}
	if err := c.copy(ctx); err != nil {
		return err
	}
	if err := c.flushPage(); err != nil {
		return err
	}
	if err := c.write(metadataTable(c.meta.items()), newMetadataAt); err != nil {
		return err
	}
	table := regionTable([]region{
		{regionBAT, newBATAt, c.batSize, true},
		{regionMetadata, newMetadataAt, newMetadata, true},
	})
	for _, at := range []int64{regionAt1, regionAt2} {
		if err := c.write(table, at); err != nil {
			return err
		}
	}
	if c.end < c.next { // a last block whose end is a hole, or no blocks at all
		if err := c.write(c.zeros, c.next-copyGrain); err != nil {
			return err
		}
	}
	// Durable before valid: a crash before this line leaves no header, and one
	// after it finds everything that a header refers to. Were it left out, a
	// header could reach the disk before the blocks, and zeros be read as data.
	if err := c.f.Sync(); err != nil {
		return err
	}
	if err := c.headers(); err != nil {
		return err
	}
	// A crash before this line leaves none, one or both headers, all of which
	// say the same.
	return c.f.Sync()
}

// headers writes both headers; there is no log to replay.
func (c *creator) headers() error {
	h := header{sequence: 1, version: 1, logOffset: newLogAt, logLength: newLogSize}
	var err error
	if h.fileWrite, err = newGUID(c.o.Random); err != nil {
		return err
	}
	if h.dataWrite, err = newGUID(c.o.Random); err != nil {
		return err
	}
	for _, at := range []int64{headerAt1, headerAt2} {
		if err := c.write(h.bytes(), at); err != nil {
			return err
		}
		h.sequence++
	}
	return nil
}

// identifier is what the file begins with. Section 2.2.1.
func identifier() []byte {
	b := make([]byte, headerAt1)
	copy(b, "vhdxfile")
	for i, u := range utf16.Encode([]rune("Millrace")) {
		put16(b[8+2*i:], u)
	}
	return b
}

// copy writes the data of the disk and the BAT's entries, block by block.
func (c *creator) copy(ctx context.Context) error {
	if c.meta.fixed {
		for b := range c.blocks {
			if err := c.allocate(b); err != nil {
				return err
			}
		}
	}
	first := int64(newBATAt) + c.batSize
	current, at := int64(-1), int64(0) // the block that is being filled, and where it is
	buf := make([]byte, copyPiece)
	for e, err := range c.from.Extents(ctx, 0, c.diskSize) {
		if err != nil {
			return err
		}
		if e.Kind != vdisk.Data {
			continue
		}
		for off := e.Offset; off < e.End(); {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(copyPiece-off%copyPiece, e.End()-off)]
			if err := c.read(p, off); err != nil {
				return err
			}
			block, inside := off/c.blockSize, off%c.blockSize
			for start, run := range c.runs(p, off) {
				switch {
				case c.meta.fixed:
					at = first + block*c.blockSize
				case block != current:
					current, at = block, c.next
					if err := c.allocate(block); err != nil {
						return err
					}
				}
				if err := c.write(run, at+inside+start); err != nil {
					return err
				}
			}
			off += int64(len(p))
		}
	}
	return nil
}

// read fills p from the disk. A source that ends early is not padded.
func (c *creator) read(p []byte, off int64) error {
	n, err := c.from.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read disk at %d: %w", off+int64(n), err)
}

// runs yields the parts of p that are not grains of zeros. off is where p is
// on the disk, by which grains are aligned.
func (c *creator) runs(p []byte, off int64) func(func(int64, []byte) bool) {
	return func(yield func(int64, []byte) bool) {
		start, at := 0, 0
		for at < len(p) {
			n := int(min(copyGrain-(off+int64(at))%copyGrain, int64(len(p)-at)))
			if bytes.Equal(p[at:at+n], c.zeros[:n]) {
				if at > start && !yield(int64(start), p[start:at]) {
					return
				}
				start = at + n
			}
			at += n
		}
		if at > start {
			yield(int64(start), p[start:at])
		}
	}
}

// allocate gives a block the next place in the file. Blocks come in order.
func (c *creator) allocate(block int64) error {
	i := c.index(block)
	if n := i / pageEntries; n != c.number {
		if err := c.flushPage(); err != nil {
			return err
		}
		c.number = n
	}
	put64(c.page[i%pageEntries*entrySize:], uint64(c.next)|stateFullyPresent)
	c.next += c.blockSize
	return nil
}

// flushPage writes the page of the BAT that was being filled. What was never
// written of it reads as zeros: not present.
func (c *creator) flushPage() error {
	err := c.write(c.page, newBATAt+c.number*pageSize)
	clear(c.page)
	return err
}

func (c *creator) write(b []byte, off int64) error {
	if _, err := c.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("write at %d: %w", off, err)
	}
	c.end = max(c.end, off+int64(len(b)))
	return nil
}
