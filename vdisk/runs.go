package vdisk

import (
	"context"
	"errors"
	"io"
	"iter"
)

// Run is a stretch of a disk as a format finds it in its tables.
type Run struct {
	Kind   Kind
	Length int64
	// Stored says that the run lies in the image's file in one piece, from At on:
	// holes of the file in it are zeros. Other data are stored in another way.
	Stored bool
	At     int64
}

// Runs lists the extents from from up to to of a disk of the given size, whose
// image is in file: what next returns for an offset, one after the other. next
// keeps its runs short enough that ctx is looked at now and then, and not beyond
// to.
func Runs(ctx context.Context, file Image, size, from, to int64, next func(off, to int64) (Run, error)) iter.Seq2[Extent, error] {
	return Merge(func(yield func(Extent, error) bool) {
		if err := CheckRange(size, from, to); err != nil {
			yield(Extent{}, err)
			return
		}
		below := ahead{image: file}
		for off := from; off < to; {
			if err := ctx.Err(); err != nil {
				yield(Extent{}, err)
				return
			}
			r, err := next(off, to)
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if !r.Stored && !yield(Extent{Offset: off, Length: r.Length, Kind: r.Kind}, nil) {
				return
			}
			// Blocks that follow each other on the disk often do so in the file.
			if r.Stored && !below.list(ctx, r.At, r.At+r.Length, r.At+to-off, off-r.At, yield) {
				return
			}
			off += r.Length
		}
	})
}

// ReadFull fills p with what is in an image's file at off. A file that ends
// inside it is ErrTruncated.
func ReadFull(file io.ReaderAt, p []byte, off int64) error {
	n, err := file.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return Truncated("%d bytes at %d: file ends at %d", len(p), off, off+int64(n))
	}
	return err
}
