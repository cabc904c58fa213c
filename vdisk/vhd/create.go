package vhd

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/millrace-backup/millrace/vdisk"
)

// CreateOptions are the choices of who makes an image; the zero value is what
// Hyper-V makes by default: a dynamic image with blocks of 2 MiB.
type CreateOptions struct {
	Fixed     bool
	BlockSize int64     // a power of two from 64 KiB to 256 MiB; 0: 2 MiB. Old readers know 512 KiB and 2 MiB only
	Time      time.Time // when it is made; the zero value is written as 2000-01-01
	Random    io.Reader // of the id; nil: crypto/rand
}

// Create writes the disk from into f as a VHD image, with holes where it is
// zero. See [NewWriter] for what f must be and what a crash leaves.
func Create(ctx context.Context, f vdisk.File, from vdisk.Image, o CreateOptions) error {
	w, err := NewWriter(f, from.Size(), o)
	if err != nil {
		return err
	}
	if err := vdisk.Copy(ctx, w, from); err != nil {
		return fmt.Errorf("create VHD: %w", err)
	}
	return w.Finish()
}

// Writer is a new image that takes its data in any order: a block gets its place
// when it is first written to. The data of a block begin at a multiple of 4 KiB.
type Writer struct {
	f      vdisk.File
	footer footer
	header header
	layout

	mu    sync.Mutex // guards all below, and keeps allocations in order
	table []byte     // the BAT as it is written
	next  int64      // where the next block may begin
	full  []byte     // a bitmap with all bits
}

// newTableAt is where the BAT of a new image is: behind the footer's copy and
// the header. blockAlign is what the data of blocks are aligned to.
const (
	newTableAt = footerSize + headerSize
	blockAlign = 4096
)

// NewWriter begins an image of a disk of zeros. Its size must be a multiple of
// 512, at most 2040 GiB, and is kept to the byte.
//
// f must be empty, which is checked; the error is fs.ErrExist when it is not.
// Everything is on the disk when [Writer.Finish] returns nil. Until then the
// file is no valid image but says that it is to be one: whoever opens it meets
// a damaged VHD, not a raw disk and not one with blocks missing. Its name is the
// caller's to make durable, and the file his to remove when anything fails.
func NewWriter(f vdisk.File, size int64, o CreateOptions) (*Writer, error) {
	w, err := newWriter(f, size, o)
	if err != nil {
		return nil, fmt.Errorf("create VHD: %w", err)
	}
	return w, nil
}

func newWriter(f vdisk.File, size int64, o CreateOptions) (*Writer, error) {
	blockSize := cmp.Or(o.BlockSize, defaultBlockSize)
	switch {
	case size < 0 || size%sectorSize != 0:
		return nil, vdisk.Unsupported("disk of %d bytes, which is not a multiple of %d", size, sectorSize)
	case size > maxDiskSize:
		return nil, vdisk.Unsupported("disk of %d bytes; the format ends at 2040 GiB", size)
	case bits.OnesCount64(uint64(blockSize)) != 1 || blockSize < minBlockSize || blockSize > maxBlockSize:
		return nil, vdisk.Unsupported("blocks of %d bytes", blockSize)
	case size/blockSize > maxBlocks:
		return nil, vdisk.Unsupported("disk of %d bytes in blocks of %d: a table of more than %d", size, blockSize, maxBlocks)
	}
	if err := vdisk.CheckEmpty(f); err != nil {
		return nil, err
	}
	w := &Writer{f: f, layout: newLayout(size, blockSize)}
	w.footer = footer{
		version: 1 << 16, dataOffset: noOffset, stamp: stamp(o.Time), size: uint64(size), kind: typeFixed,
		// The creator whose size in bytes all readers believe.
		creator: [4]byte([]byte("win ")),
	}
	w.footer.cylinders, w.footer.heads, w.footer.sectors = geometry(size)
	random := o.Random
	if random == nil {
		random = rand.Reader
	}
	var err error
	if w.footer.id, err = uuid.NewRandomFromReader(random); err != nil {
		return nil, fmt.Errorf("draw an id: %w", err)
	}
	// The cookie without the rest: see NewWriter.
	if o.Fixed {
		_, err = f.WriteAt(append([]byte(cookie), make([]byte, footerSize-len(cookie))...), size)
		return w, err
	}
	w.footer.kind, w.footer.dataOffset = typeDynamic, footerSize
	w.header = header{tableAt: newTableAt, entries: uint32(w.blocks), blockSize: uint32(blockSize)}
	w.table = full((w.blocks*entrySize + sectorSize - 1) / sectorSize * sectorSize)
	w.full = full(w.bitmapSize)
	w.next = newTableAt + int64(len(w.table))
	_, err = f.WriteAt([]byte(cookie), 0)
	return w, err
}

func full(n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xFF
	}
	return b
}

// stamp is a time as the format has it, which ends in 2136.
func stamp(t time.Time) uint32 {
	return uint32(max(0, min(t.Unix()-epoch().Unix(), 1<<32-1)))
}

// WriteAt writes p to the disk at off. It may be called in parallel for ranges
// that do not overlap.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > w.diskSize || int64(len(p)) > w.diskSize-off {
		return 0, fmt.Errorf("write %d bytes at %d: outside a disk of %d", len(p), off, w.diskSize)
	}
	if w.table == nil {
		return w.f.WriteAt(p, off)
	}
	done := 0
	for done < len(p) {
		number, inside := (off+int64(done))/w.blockSize, (off+int64(done))%w.blockSize
		at, err := w.place(number)
		if err != nil {
			return done, fmt.Errorf("write VHD at %d: %w", off+int64(done), err)
		}
		n, err := w.f.WriteAt(p[done:min(int64(len(p)), int64(done)+w.blockSize-inside)], at+inside)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// place returns where the data of a block begin. A new block has all its sectors:
// the file reads as zeros where nothing is written.
func (w *Writer) place(number int64) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.table[number*entrySize:][:entrySize]
	if sector := binary.BigEndian.Uint32(e); sector != absent {
		return int64(sector)*sectorSize + w.bitmapSize, nil
	}
	data := (w.next + w.bitmapSize + blockAlign - 1) / blockAlign * blockAlign
	at := data - w.bitmapSize
	if at/sectorSize >= absent {
		return 0, vdisk.Unsupported("file beyond 2 TiB; larger blocks take less room")
	}
	if _, err := w.f.WriteAt(w.full, at); err != nil {
		return 0, err
	}
	binary.BigEndian.PutUint32(e, uint32(at/sectorSize))
	w.next = data + w.blockSize
	return data, nil
}

// Finish makes the file a valid, durable image. No WriteAt may be under way.
func (w *Writer) Finish() error {
	if err := w.finish(); err != nil {
		return fmt.Errorf("create VHD: %w", err)
	}
	return nil
}

func (w *Writer) finish() error {
	at := w.diskSize // of the footer
	if w.table != nil {
		at = w.next
		if _, err := w.f.WriteAt(append(w.header.bytes(), w.table...), footerSize); err != nil {
			return err
		}
	}
	// Durable before valid: a crash before this line leaves no footer whose sum
	// is right, and one after it finds everything that a footer refers to. Were
	// it left out, a footer could reach the disk before the blocks, and zeros be
	// read as data.
	if err := w.f.Sync(); err != nil {
		return err
	}
	b := w.footer.bytes()
	if _, err := w.f.WriteAt(b, at); err != nil {
		return err
	}
	if w.table != nil {
		if _, err := w.f.WriteAt(b, 0); err != nil {
			return err
		}
	}
	// A crash before this line leaves none, one or both footers, which say the same.
	return w.f.Sync()
}
