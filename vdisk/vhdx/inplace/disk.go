package inplace

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/journal"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// File is the file of an image, open for reading and writing, as *os.File is.
type File interface {
	vdisk.File // of which it needs not be empty
	Truncate(size int64) error
}

// Options say how to open an image. The zero value does for images without a
// parent.
type Options struct {
	Find   vdisk.FindParent // nil: vdisk.NoParent
	Random io.Reader        // of ids; nil: crypto/rand
}

// Disk is an image that can be written to; it is a [vdisk.Image].
type Disk struct {
	w       File
	random  io.Reader
	reader  *vhdx.Image // for partially present blocks and their bitmaps, which never change
	parent  vdisk.Image // nil: none
	meta    layout.Metadata
	regions layout.Regions
	layout.Geometry

	start   sync.Mutex // held while the ids are renewed
	started bool       // guarded by start

	flushing sync.Mutex // held while the table is made durable; guards header and log
	header   layout.Header
	log      ring

	// use is held for reading while bytes of a block's place are read or
	// written. It is taken under mu, and never waits for mu.
	use sync.RWMutex

	mu    sync.Mutex // guards all below
	calm  *sync.Cond // on mu: a block is no longer busy
	busy  map[int64]bool
	table table
	end   int64          // of the file
	free  []vdisk.Extent // stretches of the file that nothing lies on, which may hold anything
	freed []vdisk.Extent // the same, once the table is durable
	err   error          // the first of writing: nothing is written after it
}

// maxFree is how many stretches are remembered; those of more have to wait until
// the file is opened again.
const maxFree = 4096

// Open opens an image for reading and writing. file and w are the same file; file
// is read as it is now, w is changed. An image that is not sound, all of its table
// included, is refused before anything is written.
func Open(ctx context.Context, file vdisk.Image, w File, o Options) (*Disk, error) {
	d, err := open(ctx, file, w, o)
	if err != nil {
		return nil, fmt.Errorf("open VHDX for writing: %w", err)
	}
	return d, nil
}

func open(ctx context.Context, file vdisk.Image, w File, o Options) (*Disk, error) {
	d := &Disk{w: w, random: o.Random, busy: map[int64]bool{}}
	if d.random == nil {
		d.random = rand.Reader
	}
	d.calm = sync.NewCond(&d.mu)
	find := o.Find
	if find == nil {
		find = vdisk.NoParent
	}
	var err error
	if d.reader, err = vhdx.Open(file, func(p vdisk.Parent) (vdisk.Image, error) {
		below, err := find(p)
		d.parent = below
		return below, err
	}); err != nil {
		return nil, err
	}
	if d.free, err = d.reader.Free(ctx, maxFree); err != nil {
		return nil, err
	}
	if d.header, err = layout.ReadHeader(file); err != nil {
		return nil, err
	}
	if d.header.LogLength == 0 {
		return nil, layout.Unsupported("no room for a log, without which nothing can be changed safely")
	}
	d.end = file.Size()
	if err := d.replay(file); err != nil {
		return nil, fmt.Errorf("replay log: %w", err)
	}
	if d.regions, err = layout.ReadRegions(w); err != nil {
		return nil, err
	}
	if d.meta, err = layout.ReadMetadata(w, d.regions.Metadata); err != nil {
		return nil, err
	}
	d.Geometry = layout.NewGeometry(d.meta)
	d.table = newTable(w, d.regions.BAT.Offset)
	if d.Blocks > 0 {
		// A file may end where the disk ends (QEMU): nothing else goes into the rest
		// of the last block.
		e, err := d.entry(d.Blocks - 1)
		if err != nil {
			return nil, err
		}
		if state(e) == layout.FullyPresent || state(e) == layout.PartiallyPresent {
			d.end = max(d.end, place(e)+d.BlockSize)
		}
	}
	d.log = ring{length: d.header.LogLength, at: d.header.LogOffset}
	return d, nil
}

// maxZeroed is how many bytes of the file a log may zero when it is replayed. It is
// for structures only, and a made-up one could ask for a hundred TiB.
const maxZeroed = int64(1) << 30

// replay makes the changes of a log that waits in the file.
func (d *Disk) replay(file vdisk.Image) error {
	changes, err := journal.Read(file, d.header)
	if err != nil || d.header.LogGUID.IsZero() {
		return err
	}
	// The file gets a new id before anything in it changes, the log stays to be
	// replayed. A crash from here on leaves a file whose log is replayed again.
	if d.header.FileWrite, err = layout.NewGUID(d.random); err != nil {
		return err
	}
	if err := d.writeHeaders(); err != nil {
		return err
	}
	for _, p := range changes.Patches {
		changes.Size = max(changes.Size, p.End)
	}
	if changes.Size > d.end {
		if err := d.w.Truncate(changes.Size); err != nil {
			return err
		}
	}
	zeros, left := make([]byte, layout.MiB), maxZeroed
	for _, p := range changes.Patches {
		if p.Offset < layout.RegionAt1 || p.Offset < d.header.LogOffset+d.header.LogLength && p.End > d.header.LogOffset {
			return layout.BadFormat("the log changes headers, or itself, at %d", p.Offset)
		}
		if p.Data == nil {
			p.End = min(p.End, d.end) // what is behind reads as zeros
			if left -= max(0, p.End-p.Offset); left < 0 {
				return layout.Unsupported("a log that zeroes more than %d bytes", maxZeroed)
			}
		}
		for off := p.Offset; p.Data == nil && off < p.End; off += layout.MiB {
			if _, err := d.w.WriteAt(zeros[:min(layout.MiB, p.End-off)], off); err != nil {
				return err
			}
		}
		if p.Data == nil {
			continue
		}
		if _, err := d.w.WriteAt(p.Data, p.Offset); err != nil {
			return err
		}
		d.end = max(d.end, p.End)
	}
	// Changes before the header that says they were made: a crash before this line
	// replays them again.
	if err := d.w.Sync(); err != nil {
		return err
	}
	d.end = max(d.end, changes.Size)
	d.header.LogGUID = layout.GUID{}
	return d.writeHeaders()
}

// writeHeaders writes the header to both slots, the one that does not count first,
// each made durable before the other is touched: one is always valid. Section
// 2.2.2.
func (d *Disk) writeHeaders() error {
	for range 2 {
		d.header.At = layout.HeaderAt1 + layout.HeaderAt2 - d.header.At
		d.header.Sequence++
		if _, err := d.w.WriteAt(d.header.Bytes(), d.header.At); err != nil {
			return err
		}
		if err := d.w.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// begin renews the ids of the file and of its content before the first change.
func (d *Disk) begin() error {
	d.start.Lock()
	defer d.start.Unlock()
	if d.started {
		return d.failed()
	}
	if err := d.failed(); err != nil {
		return err
	}
	if err := d.renew(); err != nil {
		return d.fail(err)
	}
	d.started = true
	return nil
}

func (d *Disk) renew() error {
	d.flushing.Lock()
	defer d.flushing.Unlock()
	var err error
	for _, id := range []*layout.GUID{&d.header.FileWrite, &d.header.DataWrite} {
		if *id, err = layout.NewGUID(d.random); err != nil {
			return err
		}
	}
	if err := d.writeHeaders(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Entries of the log give the file's length in MiB.
	d.end = (d.end + layout.MiB - 1) / layout.MiB * layout.MiB
	return d.w.Truncate(d.end)
}

// fail notes an error of writing, after which the file is left as it is.
func (d *Disk) fail(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = fmt.Errorf("write VHDX: %w; open the image again to replay its log", err)
	}
	return d.err
}

func (d *Disk) failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// errClosed says that a disk was closed.
var errClosed = fmt.Errorf("write VHDX: %w", fs.ErrClosed)

// Size is the size of the guest's disk.
func (d *Disk) Size() int64 { return d.DiskSize }

// Info describes the image as it is now. Its link changes with the first write:
// no child that was made before fits on it any more.
func (d *Disk) Info() vdisk.Info {
	d.flushing.Lock()
	defer d.flushing.Unlock()
	i := d.reader.Info()
	i.Link = d.header.DataWrite.String()
	return i
}

// entry returns the BAT entry of a block. The caller holds mu.
func (d *Disk) entry(block int64) (uint64, error) {
	page, err := d.table.page(d.Index(block))
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(page.b[d.Index(block)%pageEntries*layout.EntrySize:]), nil
}

func state(e uint64) uint64 { return e & layout.StateMask }
func place(e uint64) int64  { return int64(e &^ (layout.StateMask | layout.ReservedMask)) }

// ReadAt is io.ReaderAt on the guest's disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	in, end := vdisk.Window(p, off, d.DiskSize)
	done := 0
	for done < len(in) {
		block, inside := (off+int64(done))/d.BlockSize, (off+int64(done))%d.BlockSize
		part := in[done:min(int64(len(in)), int64(done)+d.BlockSize-inside)]
		if err := d.read(part, block, inside); err != nil {
			return done, fmt.Errorf("read VHDX at %d: %w", off+int64(done), err)
		}
		done += len(part)
	}
	return done, end
}

// read fills p with bytes of one block.
func (d *Disk) read(p []byte, block, inside int64) error {
	d.mu.Lock()
	e, err := d.entry(block)
	if err == nil && state(e) == layout.FullyPresent {
		d.use.RLock()
		d.mu.Unlock()
		defer d.use.RUnlock()
		return layout.ReadFull(d.w, p, place(e)+inside)
	}
	d.mu.Unlock()
	off := block*d.BlockSize + inside
	switch {
	case err != nil:
		return err
	case state(e) == layout.PartiallyPresent:
		// Its place is not used for anything else as long as the disk is open.
		n, err := d.reader.ReadAt(p, off)
		if n == len(p) || errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	case state(e) == layout.NotPresent && d.parent != nil:
		return vdisk.ReadBeneath(d.parent, p, off)
	}
	clear(p)
	return nil
}
