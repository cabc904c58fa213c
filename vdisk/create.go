package vdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// File is a new, empty file that a format writes an image into, as *os.File is.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// CheckEmpty returns an error, which is fs.ErrExist, unless f is empty.
func CheckEmpty(f File) error {
	n, err := f.ReadAt(make([]byte, 1), 0)
	if n > 0 {
		return fmt.Errorf("file is not empty, %w", fs.ErrExist)
	}
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

const (
	copyPiece = 1 << 20 // read at once
	copyGrain = 4 << 10 // zeros of this size and alignment are not written
)

// Copy writes what is not zero of from onto to, which has to be a disk of zeros.
// It reads extent by extent, from front to back.
func Copy(ctx context.Context, to io.WriterAt, from Image) error {
	buf, zeros := make([]byte, copyPiece), make([]byte, copyGrain)
	for e, err := range from.Extents(ctx, 0, from.Size()) {
		if err != nil {
			return err
		}
		for off := e.Offset; e.Kind == Data && off < e.End(); {
			p := buf[:min(copyPiece-off%copyPiece, e.End()-off)]
			if err := ctx.Err(); err != nil {
				return err
			}
			if n, err := from.ReadAt(p, off); n < len(p) { // a source that ends early is not padded
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("read disk at %d: %w", off+int64(n), err)
			}
			if err := copyRuns(to, p, off, zeros); err != nil {
				return err
			}
			off += int64(len(p))
		}
	}
	return nil
}

// copyRuns writes the parts of p, which is at off, that are not grains of zeros.
func copyRuns(to io.WriterAt, p []byte, off int64, zeros []byte) error {
	start, at := 0, 0
	flush := func() error {
		if at == start {
			return nil
		}
		_, err := to.WriteAt(p[start:at], off+int64(start))
		return err
	}
	for at < len(p) {
		n := int(min(copyGrain-(off+int64(at))%copyGrain, int64(len(p)-at)))
		if bytes.Equal(p[at:at+n], zeros[:n]) {
			if err := flush(); err != nil {
				return err
			}
			start = at + n
		}
		at += n
	}
	return flush()
}
