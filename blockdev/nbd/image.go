package nbd

import (
	"context"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
)

// Image is an export as a disk image. The client must have been opened with the context
// Allocation. Closing it closes the client.
type Image struct{ *Client }

var _ vdisk.Image = Image{}

// Extents lists what is where. What the server does not know to be zeros is data.
func (i Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		if err := vdisk.CheckRange(i.size, from, to); err != nil {
			yield(vdisk.Extent{}, err)
			return
		}
		for s, err := range i.BlockStatus(ctx, Allocation, from, to-from) {
			e := vdisk.Extent{Offset: s.Offset, Length: s.Length, Kind: vdisk.Data}
			if s.Flags&Zero != 0 {
				e.Kind = vdisk.Zero
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	})
}
