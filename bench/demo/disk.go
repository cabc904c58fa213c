package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/raw"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

const (
	copyPiece    = 1 << 20
	compareBlock = 4096
)

// putOnHost makes the guest's VHDX hold the disk in a raw file. The new image
// replaces the old one as a whole.
func (s *story) putOnHost(ctx context.Context, disk string) error {
	if err := os.MkdirAll(s.path("web"), 0o700); err != nil {
		return err
	}
	// Not in the guest's folder, where a backup would take it for a disk.
	draft := s.path("draft.vhdx")
	err := withDisk(s.path(disk), func(from *raw.Image) error {
		f, err := os.OpenFile(draft, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := create.Disk(ctx, f, from, create.Options{}); err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		s.result.ImageBytes = info.Size()
		if s.dataBytes, err = dataBytes(ctx, from); err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil {
		return fmt.Errorf("make web/disk.vhdx of %s: %w", disk, err)
	}
	return os.Rename(draft, s.path("web/disk.vhdx"))
}

// withDisk calls use with the disk in a raw file.
func withDisk(path string, use func(*raw.Image) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := raw.Open(f)
	if err != nil {
		return err
	}
	return use(m)
}

// dataBytes is how much of a disk is not a hole.
func dataBytes(ctx context.Context, m vdisk.Image) (n int64, err error) {
	for e, err := range m.Extents(ctx, 0, m.Size()) {
		if err != nil {
			return 0, err
		}
		if e.Kind == vdisk.Data {
			n += e.Length
		}
	}
	return n, nil
}

// copySparse copies a file and its holes.
func copySparse(ctx context.Context, to, from string) error {
	return withDisk(from, func(m *raw.Image) error {
		out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := out.Truncate(m.Size()); err != nil {
			return err
		}
		for e, err := range m.Extents(ctx, 0, m.Size()) {
			if err != nil {
				return err
			}
			if e.Kind != vdisk.Data {
				continue
			}
			if _, err := io.CopyBuffer(io.NewOffsetWriter(out, e.Offset), io.NewSectionReader(m, e.Offset, e.Length), make([]byte, copyPiece)); err != nil {
				return fmt.Errorf("copy %s to %s: %w", from, to, err)
			}
		}
		return out.Close()
	})
}

// difference says in how many blocks of 4 KiB two files are not the same, and
// where the first differing byte is.
type difference struct {
	blocks int64
	first  int64
}

// compare reads both files from the first byte to the last, holes included. A
// file that is longer differs in every block that the other one lacks.
func compare(ctx context.Context, a, b string) (d difference, err error) {
	f, err := os.Open(a)
	if err != nil {
		return d, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return d, err
	}
	defer g.Close()
	x, y := make([]byte, copyPiece), make([]byte, copyPiece)
	for at := int64(0); ; at += copyPiece {
		n, err := readPiece(ctx, f, x)
		if err != nil {
			return d, err
		}
		m, err := readPiece(ctx, g, y)
		if err != nil {
			return d, err
		}
		if n == 0 && m == 0 {
			return d, nil
		}
		d.add(x[:n], y[:m], at)
	}
}

// add compares two pieces that are at the same place.
func (d *difference) add(x, y []byte, at int64) {
	for off := 0; off < max(len(x), len(y)); off += compareBlock {
		p, q := x[min(off, len(x)):min(off+compareBlock, len(x))], y[min(off, len(y)):min(off+compareBlock, len(y))]
		if bytes.Equal(p, q) {
			continue
		}
		if d.blocks++; d.blocks == 1 {
			same := 0
			for same < min(len(p), len(q)) && p[same] == q[same] {
				same++
			}
			d.first = at + int64(off+same)
		}
	}
}

// readPiece fills p as far as the file goes.
func readPiece(ctx context.Context, r io.Reader, p []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return n, err
}
