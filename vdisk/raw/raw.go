// Package raw reads disk images without any structure: a regular file or a
// block device whose bytes are the disk's bytes.
//
// Call [Open] with a file that is open for reading. On Linux, holes of a
// sparse file come out as zero extents (lseek with SEEK_DATA and SEEK_HOLE);
// where the system or the file system cannot tell, everything is data. The
// size is what the file had when it was opened, to the byte: it need not be a
// multiple of a sector.
//
// An Image may be used from many goroutines. It holds no resource of its own;
// the file stays the caller's to close, after the last read. Extents moves
// the file's own offset, so nothing else should Read or Seek on it.
package raw

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/millrace-backup/millrace/vdisk"
)

// Image is a raw disk image; it is a [vdisk.Image].
type Image struct {
	f    *os.File
	size int64
}

// errNoMap says that the system cannot tell holes from data in this file.
var errNoMap = errors.New("no map of holes")

// Open returns the image that f holds. It fails when f is neither a regular
// file nor a device that has a size.
func Open(f *os.File) (*Image, error) {
	size, err := fileSize(f)
	if err != nil {
		return nil, fmt.Errorf("open raw image %s: %w", f.Name(), err)
	}
	return &Image{f: f, size: size}, nil
}

func fileSize(f *os.File) (int64, error) {
	st, err := f.Stat()
	switch {
	case err != nil:
		return 0, err
	case st.Mode().IsRegular():
		return st.Size(), nil
	case st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
		return f.Seek(0, io.SeekEnd) // a block device has no size in its inode
	}
	return 0, fmt.Errorf("%w: neither a regular file nor a block device", vdisk.ErrUnsupported)
}

// Size is the size of the file when it was opened.
func (m *Image) Size() int64 { return m.size }

// Info describes the image. A raw image says nothing about its sectors.
func (m *Image) Info() vdisk.Info {
	return vdisk.Info{Format: "raw", VirtualSize: m.size, LogicalSector: 512, PhysicalSector: 512}
}

// ReadAt is io.ReaderAt on the disk. A file that has become shorter since it
// was opened gives an error that is vdisk.ErrTruncated.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	in, end := vdisk.Window(p, off, m.size)
	if len(in) == 0 {
		return 0, end
	}
	n, err := m.f.ReadAt(in, off)
	switch {
	case n == len(in):
		return n, end
	case errors.Is(err, io.EOF):
		return n, m.shrunk(off + int64(n))
	}
	return n, fmt.Errorf("read %s at %d: %w", m.f.Name(), off+int64(n), err)
}

func (m *Image) shrunk(end int64) error {
	return fmt.Errorf("%w: %s ends at %d, it had %d bytes when opened", vdisk.ErrTruncated, m.f.Name(), end, m.size)
}

// Extents lists the file's holes as zero and the rest as data.
func (m *Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		if err := vdisk.CheckRange(m.size, from, to); err != nil {
			yield(vdisk.Extent{}, err)
			return
		}
		for off := from; off < to; {
			err := ctx.Err()
			var data, hole int64
			if err == nil {
				data, hole, err = m.next(off, to)
			}
			if err != nil {
				yield(vdisk.Extent{}, fmt.Errorf("map %s at %d: %w", m.f.Name(), off, err))
				return
			}
			if !yield(vdisk.Extent{Offset: off, Length: data - off, Kind: vdisk.Zero}, nil) ||
				!yield(vdisk.Extent{Offset: data, Length: hole - data, Kind: vdisk.Data}, nil) {
				return
			}
			off = hole
		}
	})
}

// next returns where the next data after off begins and ends, both cut at to.
// Everything between off and data is a hole. When nothing is known it says
// that all is data.
func (m *Image) next(off, to int64) (data, hole int64, err error) {
	data, err = seekData(m.f, off)
	switch {
	case errors.Is(err, errNoMap):
		return off, to, nil
	case errors.Is(err, io.EOF): // nothing but a hole up to the end of the file
		size, err := fileSize(m.f)
		if err == nil && size < to {
			err = m.shrunk(size)
		}
		return to, to, err
	case err != nil:
		return 0, 0, err
	case data >= to:
		return to, to, nil
	}
	hole, err = seekHole(m.f, data)
	switch {
	case errors.Is(err, io.EOF):
		return 0, 0, m.shrunk(data)
	case err != nil:
		return 0, 0, err
	case hole <= data || hole > to: // the first would be a bug of the file system: reading is always right
		return data, to, nil
	case hole < m.size:
		return data, hole, nil
	}
	return data, to, nil
}
