package inplace

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/filelock"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/raw"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
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
	own     io.Closer // the file, if Path opened it
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

// ErrInUse says that another process, or another part of this one, has opened the
// image for writing.
var ErrInUse = errors.New("the image is being written to by somebody else; close it there first")

// lockAt is the byte of a file that Path locks, behind all that a VHDX can have.
const lockAt = int64(1) << 62

// Path opens the image at path for reading and writing, and locks its file against
// others who open it by this function. Close closes the file.
func Path(ctx context.Context, path string, o Options) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open VHDX for writing: %w", err)
	}
	d, err := ofFile(ctx, f, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open VHDX %s for writing: %w", path, err), f.Close())
	}
	return d, nil
}

func ofFile(ctx context.Context, f *os.File, o Options) (*Disk, error) {
	if mine, err := filelock.Try(f, lockAt); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	} else if !mine {
		return nil, ErrInUse
	}
	file, err := raw.Open(f)
	if err != nil {
		return nil, err
	}
	d, err := open(ctx, file, Durable{f}, o)
	if err != nil {
		return nil, err
	}
	d.own = f
	return d, nil
}

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
	var err error
	if d.reader, err = vhdx.Open(file, func(p vdisk.Parent) (vdisk.Image, error) {
		d.parent, err = vdisk.Below(o.Find, p)
		return d.parent, err
	}); err != nil {
		return nil, err
	}
	if d.free, err = d.reader.Free(ctx, maxFree); err != nil {
		return nil, err
	}
	if d.header, err = layout.ReadHeader(file); err != nil {
		return nil, err
	}
	switch {
	case d.header.LogLength == 0:
		return nil, vdisk.Unsupported("no room for a log, without which nothing can be changed safely; converting the disk gives it one")
	case d.header.Sequence > maxSequence:
		return nil, vdisk.Unsupported("headers with number %d, which leaves too few; converting the disk begins anew", d.header.Sequence)
	}
	// An empty log, too, must be one that can be read when there is something in it.
	if err := d.header.CheckLog(); err != nil {
		return nil, err
	}
	d.end = file.Size()
	if err := d.replay(); err != nil {
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
		if place(e) != 0 && place(e) < d.end {
			d.end = max(d.end, place(e)+d.BlockSize)
		}
	}
	d.log = ring{length: d.header.LogLength, at: d.header.LogOffset}
	return d, nil
}

// Limits of what is opened for writing.
const (
	maxSequence = math.MaxUint64 >> 1 // of a header: each session needs a few more

	// maxZeroed is how many bytes of the file a log may zero when it is replayed. It
	// is for structures only, and a made-up one could ask for a hundred TiB.
	maxZeroed = int64(1) << 30
	// structures is what a file needs beside blocks and sector bitmaps, and more.
	structures = int64(1) << 30
)

// judge returns an error unless the changes of a log are such as a log has. The
// disk has been opened with them, so it is sound once they are made.
func (d *Disk) judge(changes []overlay.Patch, size int64) error {
	zeroed := int64(0)
	for _, p := range changes {
		if p.Offset < layout.RegionAt1 || p.Offset < d.header.LogOffset+d.header.LogLength && p.End > d.header.LogOffset {
			return vdisk.BadFormat("the log changes headers, or itself, at %d", p.Offset)
		}
		if p.Data == nil {
			zeroed += max(0, min(p.End, d.end)-p.Offset)
		}
	}
	if zeroed > maxZeroed {
		return vdisk.Unsupported("a log that zeroes %d bytes of the file, at most %d are; let Hyper-V open the disk once, which replays the log", zeroed, maxZeroed)
	}
	i := d.reader.Info()
	need := (i.VirtualSize+i.BlockSize-1)/i.BlockSize*i.BlockSize + (i.VirtualSize>>32+1)*layout.BitmapSize + structures
	if size-d.end > need {
		return vdisk.Unsupported("a log that makes a file of %d bytes one of %d, when its whole disk takes %d; let Hyper-V open the disk once, which replays the log",
			d.end, size, need)
	}
	return nil
}

// replay makes the changes of a log that waits in the file. Nothing is written
// before all of them were looked at.
func (d *Disk) replay() error {
	if d.header.LogGUID.IsZero() {
		return nil
	}
	changes, size := d.reader.Pending()
	if err := d.judge(changes, size); err != nil {
		return err
	}
	// The file gets a new id before anything in it changes, the log stays to be
	// replayed. A crash from here on leaves a file whose log is replayed again.
	var err error
	if d.header.FileWrite, err = layout.NewGUID(d.random); err != nil {
		return err
	}
	if err := d.writeHeaders(); err != nil {
		return err
	}
	if size > d.end {
		if err := d.w.Truncate(size); err != nil {
			return err
		}
	}
	for _, p := range changes {
		if p.Data == nil {
			err = d.zeros(p.Offset, min(p.End, d.end)-p.Offset, true) // what is behind reads as zeros
		} else {
			_, err = d.w.WriteAt(p.Data, p.Offset)
		}
		if err != nil {
			return err
		}
	}
	// Changes before the header that says they were made: a crash before this line
	// replays them again.
	if err := d.w.Sync(); err != nil {
		return err
	}
	d.end = size
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
	return binary.LittleEndian.Uint64(page.b[d.Index(block)%layout.PageEntries*layout.EntrySize:]), nil
}

func state(e uint64) uint64 { return e & layout.StateMask }
func place(e uint64) int64  { return int64(e &^ (layout.StateMask | layout.ReservedMask)) }

// ReadAt is io.ReaderAt on the guest's disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	return vdisk.ReadPieces(p, off, d.DiskSize, d.read)
}

// read reads a part of p that is in one block, and returns its length.
func (d *Disk) read(p []byte, off int64) (int, error) {
	block, inside := off/d.BlockSize, off%d.BlockSize
	p = p[:min(int64(len(p)), d.BlockSize-inside)]
	d.mu.Lock()
	e, err := d.entry(block)
	if err == nil && state(e) == layout.FullyPresent {
		d.use.RLock()
		d.mu.Unlock()
		defer d.use.RUnlock()
		return len(p), vdisk.ReadFull(d.w, p, place(e)+inside)
	}
	d.mu.Unlock()
	switch {
	case err != nil:
	case state(e) == layout.PartiallyPresent:
		// Its place is not used for anything else as long as the disk is open.
		err = vdisk.ReadFull(d.reader, p, off)
	case state(e) == layout.NotPresent && d.parent != nil:
		err = vdisk.ReadBeneath(d.parent, p, off)
	default:
		clear(p)
	}
	return len(p), err
}
