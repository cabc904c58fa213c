// Package vdisk says what a virtual disk is to a reader: an [Image] at one
// instant, a map of where its data is, and a short description of the file
// it came from.
//
// The package itself opens nothing. Call open.Path or open.File to open a
// file by its signature, or a format's own package (vdisk/raw, vdisk/vhdx)
// when the format is known. A format is a reader stacked on another Image:
// vhdx.Open takes the raw.Image of its file, and through it learns which
// parts of the file were never written.
//
// Words: an image is a disk as its guest sees it; an extent is a run of bytes
// of it, Data when something may be stored there, Zero when it reads as zeros
// without being read. Offsets and lengths are bytes of the guest's disk and
// need not be multiples of any sector.
//
// An image may hold only what is different from its [Parent]. Its format opens
// it on top of the parent that a [FindParent] gave, and the result is again an
// Image: the merged view. Which files may be parents is decided in vdisk/open.
//
// Guarantees. ReadAt and Extents may be called from any number of goroutines.
// An image is as still as the file beneath it: who wants an instant of a
// running guest freezes it first (package hypervisor). A file is never
// changed, a log that waits in it is replayed in memory only.
//
// Files are foreign bytes. Whatever is in them, opening or reading gives an
// error and not a panic, and memory stays bounded by the format's limits and
// not by a number found in the file. The errors that callers tell apart are
// [ErrFormat], [ErrTruncated] and [ErrUnsupported].
//
// A format that can create images writes into a [File]; [Copy] feeds it.
//
// The package is not a block device (see blockdev) and knows no partitions or
// file systems (see guestfs).
package vdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
)

// Errors that the formats wrap with what they were reading.
var (
	// ErrFormat says that the bytes break the rules of their format.
	ErrFormat = errors.New("damaged disk image")
	// ErrTruncated says that the file ends before something it refers to.
	ErrTruncated = errors.New("truncated disk image")
	// ErrUnsupported says that the image may be sound but cannot be read by
	// this version.
	ErrUnsupported = errors.New("unsupported disk image")
)

// BadFormat is an ErrFormat that says what is broken.
func BadFormat(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Truncated is an ErrTruncated that says what is behind the end of the file.
func Truncated(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrTruncated, fmt.Sprintf(format, args...))
}

// Unsupported is an ErrUnsupported that says what cannot be read.
func Unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// Image is a disk at one instant.
type Image interface {
	// ReadAt reads as io.ReaderAt says: it fills p or returns an error,
	// which is io.EOF when the disk ends inside p. Parts that were never
	// written read as zeros. It may be called in parallel and does not
	// allocate.
	io.ReaderAt

	// Size is the size of the disk in bytes.
	Size() int64

	// Extents lists what is where from from up to to: in order, without gap
	// or overlap, never empty, and no two neighbours of one kind. Zero
	// extents read as zeros; data extents may. It fails, by a last pair with
	// an error, when the range is not inside the disk, when ctx ends, or
	// when the map cannot be read.
	Extents(ctx context.Context, from, to int64) iter.Seq2[Extent, error]
}

// Kind tells what an extent holds. Values are only ever added.
type Kind uint8

// The kinds of extents.
const (
	Data      Kind = iota // read it to know
	Zero                  // reads as zeros
	Inherited             // what the parent has; only in a list of what one layer of a chain holds, never in an Image's
)

// String returns the kind as people read it.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Zero:
		return "zero"
	case Inherited:
		return "inherited"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Extent is a run of bytes of a disk, all of one kind.
type Extent struct {
	Offset, Length int64
	Kind           Kind
}

// End is the offset just after the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// Info describes a disk image for people and for facts.
type Info struct {
	Format         string // "raw", "vhdx", "vhd", "qcow2"
	Variant        string // "fixed", "dynamic", "differencing"; empty where the format has one form only
	VirtualSize    int64  // bytes the guest sees
	LogicalSector  int    // bytes; 512 when the format does not say
	PhysicalSector int    // bytes; 512 when the format does not say
	BlockSize      int64  // bytes the format allocates at once; 0 where it has no blocks
	DiskID         string // the format's own id of the disk, or empty
	Link           string // the id by which a child names this image as its parent, or empty
	Snapshots      int    // earlier states of the disk that the image has inside (qcow2), as it says itself
}

// Window cuts p to what lies inside a disk of the given size when it is read
// at off. The error is what ReadAt returns once that part has been read: nil,
// or io.EOF when the disk ends inside p. A negative offset leaves nothing.
func Window(p []byte, off, size int64) ([]byte, error) {
	switch {
	case off < 0:
		return nil, fmt.Errorf("read at %d: negative offset", off)
	case len(p) == 0:
		return nil, nil
	case off >= size:
		return nil, io.EOF
	case int64(len(p)) > size-off:
		return p[:size-off], io.EOF
	}
	return p, nil
}

// ReadPieces is the ReadAt of a disk of the given size that lies in pieces: read
// fills the beginning of what it is given, which is inside the disk, and returns
// how much, at least one byte unless there is an error. Errors say where reading
// ended.
func ReadPieces(p []byte, off, size int64, read func(p []byte, off int64) (int, error)) (int, error) {
	in, end := Window(p, off, size)
	done := 0
	for done < len(in) {
		n, err := read(in[done:], off+int64(done))
		if err != nil {
			return done, fmt.Errorf("read disk at %d: %w", off+int64(done), err)
		}
		done += n
	}
	return done, end
}

// CheckRange returns an error unless 0 <= from <= to <= size.
func CheckRange(size, from, to int64) error {
	if from < 0 || to < from || to > size {
		return fmt.Errorf("extents %d..%d: outside a disk of %d bytes", from, to, size)
	}
	return nil
}

// Merge joins neighbours of one kind in a sequence of extents and drops empty
// ones, so that a format may list its blocks one by one. It ends after the
// first error.
func Merge(seq iter.Seq2[Extent, error]) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var run Extent
		for e, err := range seq {
			if err != nil {
				if run.Length == 0 || yield(run, nil) {
					yield(Extent{}, err)
				}
				return
			}
			switch {
			case e.Length == 0:
			case run.Length > 0 && run.Kind == e.Kind && run.End() == e.Offset:
				run.Length += e.Length
			case run.Length > 0 && !yield(run, nil):
				return
			default:
				run = e
			}
		}
		if run.Length > 0 {
			yield(run, nil)
		}
	}
}
