package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
)

// Allocation is the context that every server has: [Hole] and [Zero] are its flags.
const Allocation = "base:allocation"

// Flags of Allocation.
const (
	Hole = 1 << 0 // there is no room taken for it
	Zero = 1 << 1 // it reads as zeros
)

// Dirty is the flag of QEMU's dirty bitmaps, whose context is [DirtyBitmap].
const Dirty = 1

// DirtyBitmap is the context of a dirty bitmap of QEMU.
func DirtyBitmap(name string) string { return "qemu:dirty-bitmap:" + name }

// Status is what a context says of a range.
type Status struct {
	Offset, Length int64
	Flags          uint32
}

// statusRequest is how much is asked about at once: a multiple of any block size, and
// less than the 32 bits that a request has for it.
const statusRequest = 2 << 30

// statuses reads a chunk that has what one context says.
func (x *call) statuses(r *bufio.Reader, n int) error {
	if n > maxExtents {
		return broken("%d extents in one reply", n)
	}
	var b [8]byte
	if _, err := io.ReadFull(r, b[:4]); err != nil {
		return err
	}
	id := binary.BigEndian.Uint32(b[:])
	if x.status[id] != nil {
		return broken("two answers for context %d", id)
	}
	out, at := []Status{}, x.off
	for range n {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		s := Status{Offset: at, Length: int64(binary.BigEndian.Uint32(b[:])), Flags: binary.BigEndian.Uint32(b[4:])}
		if s.Length == 0 {
			return broken("an extent of no bytes at %d", at)
		}
		// The last one may go beyond what was asked for; nothing may follow it then.
		if at >= x.off+x.length {
			return broken("extents beyond the %d bytes at %d that were asked about", x.length, x.off)
		}
		at += s.Length
		if last := len(out) - 1; last >= 0 && out[last].Flags == s.Flags {
			out[last].Length += s.Length
		} else {
			out = append(out, s)
		}
	}
	if x.status == nil {
		x.status = map[uint32][]Status{}
	}
	x.status[id] = out
	return nil
}

// Status lists what a context says from from up to to: in order, without a gap, and no
// two neighbours with the same flags. It ends with an error if there is one.
func (c *Client) Status(ctx context.Context, what string, from, to int64) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		if from < 0 || to > c.size || from > to {
			yield(Status{}, fmt.Errorf("status of bytes %d to %d of %d", from, to, c.size))
			return
		}
		var open Status // not yet told: what follows may be the same
		for at := from; at < to; {
			part, err := c.statusAt(ctx, what, at, min(to-at, statusRequest))
			if err != nil {
				yield(Status{}, fmt.Errorf("ask NBD export %q about bytes from %d on: %w", c.o.Export, at, err))
				return
			}
			for _, s := range part {
				s.Length = min(s.Length, to-s.Offset)
				at = s.Offset + s.Length
				if open.Length > 0 && open.Flags == s.Flags {
					open.Length += s.Length
					continue
				}
				if open.Length > 0 && !yield(open, nil) {
					return
				}
				open = s
			}
		}
		if open.Length > 0 {
			yield(open, nil)
		}
	}
}

// statusAt makes one request. The answer covers the beginning of what was asked at least.
func (c *Client) statusAt(ctx context.Context, what string, off, length int64) ([]Status, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	x := &call{kind: cmdStatus, off: off, length: length}
	if err := c.begin(x); err != nil {
		return nil, err
	}
	if err := c.wait(ctx, x); err != nil {
		return nil, err
	}
	for id, name := range c.contexts {
		if name == what && len(x.status[id]) > 0 {
			return x.status[id], nil
		}
	}
	err := broken("it says nothing of %s", what)
	c.end(err)
	return nil, err
}

// Image is an export as a disk image. The client must have been opened with the context
// Allocation. Closing it closes the client.
type Image struct{ *Client }

var _ vdisk.Image = Image{}

// Extents lists what is where. What the server does not know to be zeros is data.
func (i Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		var open vdisk.Extent
		for s, err := range i.Status(ctx, Allocation, from, to) {
			if err != nil {
				yield(vdisk.Extent{}, err)
				return
			}
			e := vdisk.Extent{Offset: s.Offset, Length: s.Length, Kind: vdisk.Data}
			if s.Flags&Zero != 0 {
				e.Kind = vdisk.Zero
			}
			if open.Length > 0 && open.Kind == e.Kind {
				open.Length += e.Length
				continue
			}
			if open.Length > 0 && !yield(open, nil) {
				return
			}
			open = e
		}
		if open.Length > 0 {
			yield(open, nil)
		}
	}
}
