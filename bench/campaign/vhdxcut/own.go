package vhdxcut

import (
	"context"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
)

// own is a layer on a disk that has a few sectors of its own.
type own struct {
	vdisk.Image
	size  int64 // need not be that of the disk beneath
	at, n int64
}

// Size is the size of the layer.
func (o own) Size() int64 { return o.size }

// ReadAt reads what the layer has, and nothing else is asked for.
func (o own) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, pattern(2_000_000, o.n)[off-o.at:]), nil
}

// Own lists what is the layer's.
func (o own) Own(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		_ = yield(vdisk.Extent{Offset: from, Length: o.at - from, Kind: vdisk.Inherited}, nil) &&
			yield(vdisk.Extent{Offset: o.at, Length: o.n, Kind: vdisk.Data}, nil) &&
			yield(vdisk.Extent{Offset: o.at + o.n, Length: to - o.at - o.n, Kind: vdisk.Inherited}, nil)
	})
}
