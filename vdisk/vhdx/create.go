package vhdx

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
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
	newLogAt, newLogSize           = 1 * mib, 1 * mib
	newMetadataAt, newMetadataSize = 2 * mib, 1 * mib
	newBATAt                       = 3 * mib

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
	meta metadata
	ids  [3]guid // of the disk, of this file, of its content
	geometry

	batSize int64
	next    int64 // where the next block goes
	end     int64 // of what has been written
	zeros   []byte
	err     error // the first of writing

	// The page of the BAT that is being filled: entries come in order.
	page   []byte
	number int64
}

func newCreator(f File, from vdisk.Image, o CreateOptions) (*creator, error) {
	m := metadata{
		blockSize: cmp.Or(o.BlockSize, defaultBlockSize), diskSize: from.Size(), fixed: o.Fixed,
		logicalSector: cmp.Or(o.LogicalSector, 512), physicalSector: cmp.Or(o.PhysicalSector, 4096),
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", vdisk.ErrUnsupported, err)
	}
	if size, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	} else if size != 0 {
		return nil, fmt.Errorf("file has %d bytes, %w", size, fs.ErrExist)
	}
	c := &creator{f: f, from: from, meta: m, geometry: newGeometry(m), page: make([]byte, pageSize), zeros: make([]byte, copyGrain)}
	random := o.Random
	if random == nil {
		random = rand.Reader
	}
	for i := range c.ids {
		if err := newGUID(&c.ids[i], random); err != nil {
			return nil, err
		}
	}
	c.meta.diskID = c.ids[0]
	c.batSize = max(1, (c.length()*entrySize+mib-1)/mib) * mib
	c.next = newBATAt + c.batSize
	return c, nil
}

// newGUID draws a random GUID, version 4 of RFC 9562.
func newGUID(g *guid, r io.Reader) error {
	if _, err := io.ReadFull(r, g[:]); err != nil {
		return fmt.Errorf("draw an id: %w", err)
	}
	g[7] = g[7]&0x0F | 0x40 // the third field is little-endian
	g[8] = g[8]&0x3F | 0x80
	return nil
}

// create writes the parts in the order that keeps a torn file recognisable.
func (c *creator) create(ctx context.Context) error {
	// The identifier is first: a file that stays behind unfinished is then
	// taken for a broken VHDX image and not for a raw one.
	c.write(identifier(), 0)
	if err := c.copy(ctx); err != nil {
		return err
	}
	c.flushPage()
	c.write(metadataTable(c.meta.items()), newMetadataAt)
	table := regionTable([]region{{regionBAT, newBATAt, c.batSize, true}, {regionMetadata, newMetadataAt, newMetadataSize, true}})
	c.write(table, regionAt1)
	c.write(table, regionAt2)
	if from := max(c.end, c.next-copyGrain); from < c.next { // the last block ends with a hole
		c.write(c.zeros[:c.next-from], from)
	}
	// Durable before valid: a crash before this line leaves no header, and one
	// after it finds everything that a header refers to. Were it left out, a
	// header could reach the disk before the blocks, and zeros be read as data.
	c.sync()
	h := header{sequence: 1, fileWrite: c.ids[1], dataWrite: c.ids[2], version: 1, logOffset: newLogAt, logLength: newLogSize}
	c.write(h.bytes(), headerAt1)
	h.sequence++
	c.write(h.bytes(), headerAt2)
	// A crash before this line leaves none, one or both headers, all of which
	// say the same: there is no log to replay.
	c.sync()
	return c.err
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
	for b := int64(0); c.meta.fixed && b < c.blocks; b++ {
		c.allocate(b)
	}
	current, at := int64(-1), int64(0) // the block that is being filled, and where it is
	buf := make([]byte, copyPiece)
	for e, err := range c.from.Extents(ctx, 0, c.diskSize) {
		if err != nil {
			return err
		}
		for off := e.Offset; e.Kind == vdisk.Data && off < e.End(); {
			p := buf[:min(copyPiece-off%copyPiece, e.End()-off)]
			if err := errors.Join(ctx.Err(), c.err, c.read(p, off)); err != nil {
				return err
			}
			block := off / c.blockSize
			for start, run := range c.runs(p, off) {
				if c.meta.fixed {
					at = newBATAt + c.batSize + block*c.blockSize
				} else if block != current {
					current, at = block, c.allocate(block)
				}
				c.write(run, at+off%c.blockSize+start)
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
func (c *creator) runs(p []byte, off int64) iter.Seq2[int64, []byte] {
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
func (c *creator) allocate(block int64) int64 {
	i := c.index(block)
	if n := i / pageEntries; n != c.number {
		c.flushPage()
		c.number = n
	}
	at := c.next
	put64(c.page[i%pageEntries*entrySize:], uint64(at)|stateFullyPresent)
	c.next += c.blockSize
	return at
}

// flushPage writes the page of the BAT that was being filled. What was never
// written of it reads as zeros: not present.
func (c *creator) flushPage() {
	c.write(c.page, newBATAt+c.number*pageSize)
	clear(c.page)
}

// write and sync do nothing once something has failed.
func (c *creator) write(b []byte, off int64) {
	if c.err == nil {
		_, c.err = c.f.WriteAt(b, off)
		c.end = max(c.end, off+int64(len(b)))
	}
}

func (c *creator) sync() {
	if c.err == nil {
		c.err = c.f.Sync()
	}
}
