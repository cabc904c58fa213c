package rundirect

import (
	"context"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"github.com/millrace-backup/millrace/blockdev/overlay"
	"github.com/millrace-backup/millrace/restore/live"
	"github.com/millrace-backup/millrace/vdisk"
)

// sector is what sizes of served disks are rounded up to.
const sector = 512

// disk is a point's disk with what was written over it. It is a server.Disk.
type disk struct {
	over  *overlay.Overlay
	below *live.Image
	trace *trace
	read  atomic.Int64 // bytes that the guest has read
	wrote atomic.Int64
	home  atomic.Pointer[mover] // nil: it stays here
	now   atomic.Int64          // requests under way
	last  atomic.Int64          // when the last one ended, in nanoseconds since 1970
}

// busy reports whether the guest uses the disk.
func (d *disk) busy() bool {
	return d.now.Load() > 0 || time.Now().UnixNano()-d.last.Load() < int64(10*time.Millisecond)
}

func (d *disk) begin() { d.now.Add(1) }

func (d *disk) end() {
	d.last.Store(time.Now().UnixNano())
	d.now.Add(-1)
}

// touched tells who copies the disk that a part of it has changed, before the guest hears so.
func (d *disk) touched(off, length int64) {
	if m := d.home.Load(); m != nil && length > 0 {
		m.touched(off, length)
	}
}

// base is the disk of the point; behind its end, up to the next sector, there are zeros.
type base struct{ *live.Image }

func (b base) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(max(b.Size()-off, 0), int64(len(p))))
	clear(p[n:])
	if n > 0 {
		if got, err := b.Image.ReadAt(p[:n], off); got < n {
			return got, err
		}
	}
	return len(p), nil
}

// ReadAt reads as io.ReaderAt says.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.begin()
	defer d.end()
	err := d.over.ReadAt(p, off, base{d.below})
	if err != nil {
		return 0, err
	}
	d.read.Add(int64(len(p)))
	d.trace.saw(off, int64(len(p)))
	return len(p), nil
}

// WriteAt writes into the overlay.
func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.begin()
	defer d.end()
	n, err := d.over.WriteAt(p, off)
	d.wrote.Add(int64(n))
	d.touched(off, int64(len(p))) // and if it failed: some of it may be there
	return n, err
}

// Flush makes durable what was written.
func (d *disk) Flush() error { return d.over.Flush() }

// WriteZeroes makes a range read as zeros.
func (d *disk) WriteZeroes(off, length int64) error {
	err := d.over.WriteZeroes(off, length)
	d.touched(off, length)
	return err
}

// Trim says that a range is not needed any more.
func (d *disk) Trim(off, length int64) error {
	err := d.over.Trim(off, length)
	d.touched(off, length)
	return err
}

// Extents lists what is where, the overlay's and below it the point's.
func (d *disk) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		for e, err := range d.over.Written(ctx, from, to) {
			if err != nil || e.Kind != vdisk.Inherited {
				if !yield(e, err) || err != nil {
					return
				}
				continue
			}
			size := d.below.Size()
			for b, err := range d.below.Extents(ctx, min(e.Offset, size), min(e.End(), size)) {
				if !yield(b, err) || err != nil {
					return
				}
			}
			if tail := max(e.Offset, size); tail < e.End() && !yield(vdisk.Extent{Offset: tail, Length: e.End() - tail, Kind: vdisk.Zero}, nil) {
				return
			}
		}
	}
}

var _ io.ReaderAt = (*disk)(nil)
