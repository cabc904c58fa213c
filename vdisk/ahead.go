package vdisk

import "context"

// ahead lists the extents of an image for somebody who asks for one stretch of it after
// the other. What the last answer told beyond a stretch is remembered, so that an extent
// is asked for once, not once for each block of another image that lies in it: a listing
// costs what there is to list. The image must not change meanwhile.
type ahead struct {
	image Image
	known Extent
}

// list yields the extents of from..to, each moved by shift. Nothing beyond limit is asked
// for: whoever lists a small part of a large disk does not pay for all of it. It reports
// whether to go on.
func (a *ahead) list(ctx context.Context, from, to, limit, shift int64, yield func(Extent, error) bool) bool {
	for at := from; at < to; {
		if at < a.known.Offset || at >= a.known.End() {
			if err := a.ask(ctx, at, max(to, min(limit, a.image.Size()))); err != nil {
				yield(Extent{}, err)
				return false
			}
		}
		end := min(to, a.known.End())
		if !yield(Extent{Offset: at + shift, Length: end - at, Kind: a.known.Kind}, nil) {
			return false
		}
		at = end
	}
	return true
}

// ask learns of the extent at from, as far as it goes until to.
func (a *ahead) ask(ctx context.Context, from, to int64) error {
	for e, err := range a.image.Extents(ctx, from, to) {
		if err != nil {
			return err
		}
		if e.Offset == from && e.Length > 0 {
			a.known = e
			return nil
		}
		break
	}
	return Truncated("%d bytes at %d: the image below has no extents there", to-from, from)
}
