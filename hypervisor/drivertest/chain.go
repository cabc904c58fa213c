package drivertest

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

// VHDX writes a VHDX image that holds disk, whose length is a multiple of 512.
func VHDX(path string, disk []byte) error { return VHDXOfSector(path, disk, 512) }

// VHDXOfSector writes one with logical sectors of 512 or 4096 bytes.
func VHDXOfSector(path string, disk []byte, sector int) error {
	return newFile(path, func(f *os.File) error {
		return create.Disk(context.Background(), f, flat{disk}, create.Options{BlockSize: 1 << 20, LogicalSector: sector})
	})
}

// Checkpoint writes a differencing VHDX with two parts of its own, laid on the
// VHDX image at parent, whose own parents are in its folder. It returns what the
// guest sees. The disk must have at least 1 MiB.
func Checkpoint(path, parent string, seed byte) (merged []byte, err error) {
	base, err := open.Path(parent, open.Options{Parents: []string{filepath.Dir(parent)}})
	if err != nil {
		return nil, err
	}
	defer base.Close()
	l := layer{flat: flat{make([]byte, base.Size())}}
	if _, err := base.ReadAt(l.disk, 0); err != nil {
		return nil, err
	}
	for _, at := range []int64{int64(seed) << 12, base.Size()&^4095 - 1<<19 - int64(seed)<<12} {
		l.own = append(l.own, vdisk.Extent{Offset: at, Length: 8192, Kind: vdisk.Data})
		copy(l.disk[at:], bytes.Repeat([]byte{seed, 0xAB}, 4096))
	}
	rel, err := filepath.Rel(filepath.Dir(path), parent)
	if err != nil {
		return nil, err
	}
	on := create.Parent{Info: base.Info(), Relative: `.\` + strings.ReplaceAll(rel, string(filepath.Separator), `\`)}
	err = newFile(path, func(f *os.File) error {
		return create.Child(context.Background(), f, l, on, create.Options{BlockSize: 1 << 20})
	})
	return l.disk, err
}

func newFile(path string, fill func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}

// flat is a disk in memory.
type flat struct{ disk []byte }

func (d flat) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d.disk).ReadAt(p, off) }
func (d flat) Size() int64                             { return int64(len(d.disk)) }
func (d flat) Extents(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		if from < to {
			yield(vdisk.Extent{Offset: from, Length: to - from, Kind: vdisk.Data}, nil)
		}
	}
}

// layer is a disk of which only some parts are a child's own.
type layer struct {
	flat
	own []vdisk.Extent // in order
}

func (l layer) Own(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	// Pieces of 4 KiB: every part begins and ends on one.
	return func(yield func(vdisk.Extent, error) bool) {
		for at := from; at < to; {
			end := min(at&^4095+4096, to)
			kind := vdisk.Inherited
			if slices.ContainsFunc(l.own, func(x vdisk.Extent) bool { return x.Offset <= at && at < x.Offset+x.Length }) {
				kind = vdisk.Data
			}
			if !yield(vdisk.Extent{Offset: at, Length: end - at, Kind: kind}, nil) {
				return
			}
			at = end
		}
	}
}
