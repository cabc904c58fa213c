package create

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// Options are the choices of who makes an image; the zero value is what Hyper-V
// makes by default: a dynamic image with blocks of 32 MiB.
type Options struct {
	BlockSize      int64     // a power of two from 1 to 256 MiB; 0: 32 MiB, of a differencing image 2 MiB
	LogicalSector  int       // 512 or 4096; 0: 512. QEMU reads 512 only
	PhysicalSector int       // 512 or 4096; 0: 4096
	Fixed          bool      // every block has its place, whether it holds data or not
	Random         io.Reader // of ids; nil: crypto/rand
}

// Where the parts of a new file are. Blocks follow the BAT.
const (
	newLogAt, newLogSize           = 1 * layout.MiB, 1 * layout.MiB
	newMetadataAt, newMetadataSize = 2 * layout.MiB, 1 * layout.MiB
	newBATAt                       = 3 * layout.MiB

	defaultBlockSize = 32 * layout.MiB
	defaultChildSize = 2 * layout.MiB // Hyper-V's, of differencing images
)

// Disk writes the disk from into f as a VHDX image. See [NewWriter] for what f
// must be and what a crash leaves.
func Disk(ctx context.Context, f vdisk.File, from vdisk.Image, o Options) error {
	w, err := NewWriter(f, from.Size(), o)
	if err != nil {
		return err
	}
	if err := vdisk.Copy(ctx, w, from); err != nil {
		return fmt.Errorf("create VHDX: %w", err)
	}
	return w.Finish()
}

// Writer is a new image that takes its data in any order: a block gets its place
// when it is first written to.
type Writer struct {
	f    vdisk.File
	meta layout.Metadata
	ids  [2]layout.GUID // of this file, of its content
	layout.Geometry
	batSize int64

	mu    sync.Mutex // guards all below
	pages map[int64]*[layout.PageSize]byte
	next  int64 // where the next block goes
	end   int64 // of what has been written
}

// NewWriter begins an image of a disk of zeros. Its size must be a multiple of
// the logical sector, at most 64 TiB.
//
// f must be empty, which is checked; the error is fs.ErrExist when it is not.
// Everything is on the disk when [Writer.Finish] returns nil. Until then the file
// is no valid image: whoever opens it meets a VHDX file without headers, not a
// raw disk and not one with blocks missing. Its name is the caller's to make
// durable, and the file his to remove when anything fails.
func NewWriter(f vdisk.File, size int64, o Options) (*Writer, error) {
	m := layout.Metadata{DiskSize: size, BlockSize: cmp.Or(o.BlockSize, defaultBlockSize), Fixed: o.Fixed}
	w, err := newWriter(f, m, o)
	if err != nil {
		return nil, fmt.Errorf("create VHDX: %w", err)
	}
	return w, nil
}

func newWriter(f vdisk.File, m layout.Metadata, o Options) (*Writer, error) {
	m.LogicalSector, m.PhysicalSector = cmp.Or(o.LogicalSector, 512), cmp.Or(o.PhysicalSector, 4096)
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", vdisk.ErrUnsupported, err)
	}
	if err := vdisk.CheckEmpty(f); err != nil {
		return nil, err
	}
	random := o.Random
	if random == nil {
		random = rand.Reader
	}
	w := &Writer{f: f, pages: map[int64]*[layout.PageSize]byte{}}
	var err error
	for i := range w.ids {
		if w.ids[i], err = layout.NewGUID(random); err != nil {
			return nil, err
		}
	}
	if m.DiskID.IsZero() {
		if m.DiskID, err = layout.NewGUID(random); err != nil {
			return nil, err
		}
	}
	w.meta, w.Geometry = m, layout.NewGeometry(m)
	w.batSize = max(1, (w.Length()*layout.EntrySize+layout.MiB-1)/layout.MiB) * layout.MiB
	w.next = newBATAt + w.batSize
	if m.Fixed {
		for b := range w.Blocks {
			w.setEntry(w.Index(b), uint64(w.allocate(w.BlockSize))|layout.FullyPresent)
		}
	}
	// The identifier is first: a file that stays behind unfinished is then
	// taken for a broken VHDX image and not for a raw one.
	return w, w.write(layout.Identifier(), 0)
}

// WriteAt writes p to the disk at off. It may be called in parallel for ranges
// that do not overlap.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > w.DiskSize || int64(len(p)) > w.DiskSize-off {
		return 0, fmt.Errorf("write %d bytes at %d: outside a disk of %d", len(p), off, w.DiskSize)
	}
	done := 0
	for done < len(p) {
		block, inside := (off+int64(done))/w.BlockSize, (off+int64(done))%w.BlockSize
		part := p[done:min(int64(len(p)), int64(done)+w.BlockSize-inside)]
		if err := w.write(part, w.place(block)+inside); err != nil {
			return done, fmt.Errorf("write VHDX at %d: %w", off+int64(done), err)
		}
		done += len(part)
	}
	return done, nil
}

// place returns where a block is, and gives it a place if it has none.
func (w *Writer) place(block int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.Index(block)
	if page := w.pages[i/layout.PageEntries]; page != nil {
		if e := binary.LittleEndian.Uint64(page[i%layout.PageEntries*layout.EntrySize:]); e != 0 {
			return int64(e &^ (layout.StateMask | layout.ReservedMask))
		}
	}
	at := w.allocate(w.BlockSize)
	w.setEntry(i, uint64(at)|layout.FullyPresent)
	return at
}

// allocate takes the next place in the file.
func (w *Writer) allocate(size int64) int64 {
	at := w.next
	w.next += size
	return at
}

// setEntry sets an entry of the BAT in memory.
func (w *Writer) setEntry(i int64, e uint64) {
	page := w.pages[i/layout.PageEntries]
	if page == nil {
		page = new([layout.PageSize]byte)
		w.pages[i/layout.PageEntries] = page
	}
	binary.LittleEndian.PutUint64(page[i%layout.PageEntries*layout.EntrySize:], e)
}

func (w *Writer) write(b []byte, off int64) error {
	_, err := w.f.WriteAt(b, off)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end = max(w.end, off+int64(len(b)))
	return err
}

// Finish makes the file a valid, durable image. No WriteAt may be under way.
func (w *Writer) Finish() error {
	if err := w.finish(); err != nil {
		return fmt.Errorf("create VHDX: %w", err)
	}
	return nil
}

// finish writes the parts in the order that keeps a torn file recognisable.
func (w *Writer) finish() error {
	for number, page := range w.pages {
		if err := w.write(page[:min(layout.PageSize, w.batSize-number*layout.PageSize)], newBATAt+number*layout.PageSize); err != nil {
			return err
		}
	}
	if err := w.write(layout.MetadataTable(w.meta.Items()), newMetadataAt); err != nil {
		return err
	}
	table := layout.RegionTable([]layout.Region{
		{ID: layout.RegionBAT, Offset: newBATAt, Length: w.batSize, Required: true},
		{ID: layout.RegionMetadata, Offset: newMetadataAt, Length: newMetadataSize, Required: true},
	})
	for _, at := range []int64{layout.RegionAt1, layout.RegionAt2} {
		if err := w.write(table, at); err != nil {
			return err
		}
	}
	if from := max(w.end, w.next-layout.SectorSize); from < w.next { // the last part ends with a hole
		if err := w.write(make([]byte, w.next-from), from); err != nil {
			return err
		}
	}
	// Durable before valid: a crash before this line leaves no header, and one
	// after it finds everything that a header refers to. Were it left out, a
	// header could reach the disk before the blocks, and zeros be read as data.
	if err := w.f.Sync(); err != nil {
		return err
	}
	h := layout.Header{Sequence: 1, FileWrite: w.ids[0], DataWrite: w.ids[1], Version: 1, LogOffset: newLogAt, LogLength: newLogSize}
	for _, at := range []int64{layout.HeaderAt1, layout.HeaderAt2} {
		if err := w.write(h.Bytes(), at); err != nil {
			return err
		}
		h.Sequence++
	}
	// A crash before this line leaves none, one or both headers, all of which
	// say the same: there is no log to replay.
	return w.f.Sync()
}
