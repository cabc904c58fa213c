package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
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

const (
	// statusRequest is how much is asked about at once: the multiple of any block size
	// that fits the 32 bits that a request has for it.
	statusRequest = 1<<32 - maxMinBlock
	// A server that tells of less than leastStatus bytes a reply, on average and after the
	// first freeReplies, keeps us busy with nothing.
	leastStatus = 512
	freeReplies = 1024
)

// statuses reads a chunk that has what one context says.
func (c *Client) statuses(x *call, r *bufio.Reader, n int) error {
	if n > maxExtents {
		return broken("%d extents in one reply", n)
	}
	b, err := r.Peek(4)
	if err != nil {
		return err
	}
	id := binary.BigEndian.Uint32(b)
	_, _ = r.Discard(4) // they are there
	if slices.Contains(x.told, id) || !slices.ContainsFunc(c.contexts, func(m metaContext) bool { return m.id == id }) {
		return broken("an answer for context %d, which there is not, or twice", id)
	}
	x.told = append(x.told, id)
	if id != x.context {
		_, err := r.Discard(n * 8)
		return err
	}
	at, end := x.off, x.off+x.length
	for range n {
		b, err := r.Peek(8)
		if err != nil {
			return err
		}
		s := Status{Offset: at, Length: int64(binary.BigEndian.Uint32(b)), Flags: binary.BigEndian.Uint32(b[4:])}
		_, _ = r.Discard(8)
		// The last one may go beyond what was asked for; nothing may follow it then.
		if s.Length == 0 || at >= end {
			return broken("an extent of %d bytes at %d, asked about %d bytes at %d", s.Length, at, x.length, x.off)
		}
		s.Length = min(s.Length, end-at)
		at += s.Length
		if last := len(x.status) - 1; last >= 0 && x.status[last].Flags == s.Flags {
			x.status[last].Length += s.Length
		} else {
			x.status = append(x.status, s)
		}
	}
	return nil
}

// BlockStatus lists what a context, one of Options.Contexts, says of length bytes from off
// on: in order, without a gap, and no two neighbours with the same flags. It ends with an
// error if there is one. When ctx ends the connection goes on.
func (c *Client) BlockStatus(ctx context.Context, what string, off, length int64) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		var open Status // not yet told: what follows may be the same
		err := c.eachStatus(ctx, what, off, length, func(s Status) bool {
			if open.Length > 0 && open.Flags == s.Flags {
				open.Length += s.Length
				return true
			}
			before := open
			open = s
			return before.Length == 0 || yield(before, nil)
		})
		switch {
		case err == errEnough:
		case err != nil:
			yield(Status{}, fmt.Errorf("ask NBD export %q for %s: %w", c.o.Export, what, err))
		case open.Length > 0:
			yield(open, nil)
		}
	}
}

// errEnough says that whoever asked wants to know no more.
var errEnough = errors.New("enough")

func (c *Client) eachStatus(ctx context.Context, what string, off, length int64, each func(Status) bool) error {
	i := slices.IndexFunc(c.contexts, func(m metaContext) bool { return m.name == what })
	if i < 0 {
		return &MissingContextError{Contexts: []string{what}}
	}
	if off < 0 || length < 0 || off > c.size || length > c.size-off {
		return fmt.Errorf("%d bytes at %d are outside of %d", length, off, c.size)
	}
	end := off + length
	for at, replies := off, int64(0); at < end; replies++ {
		if replies > freeReplies+(at-off)/leastStatus {
			err := broken("it tells of %d bytes in %d replies", at-off, replies)
			c.end(err)
			return err
		}
		from := at - at%c.block.Min
		part, err := c.statusAt(ctx, c.contexts[i].id, from, min(c.size-from, statusRequest, roundUp(end-from, c.block.Min)))
		if err != nil {
			return fmt.Errorf("from %d on: %w", at, err)
		}
		for _, s := range part {
			to := min(s.Offset+s.Length, end)
			s.Offset = max(s.Offset, at)
			if s.Length = to - s.Offset; s.Length <= 0 {
				continue
			}
			at = to
			if !each(s) {
				return errEnough
			}
		}
	}
	return nil
}

func roundUp(n, block int64) int64 { return n + (block-n%block)%block }

// statusAt makes one request. The answer covers the beginning of what was asked at least.
func (c *Client) statusAt(ctx context.Context, id uint32, off, length int64) ([]Status, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var x *call
	select {
	case x = <-c.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	x.request = request{kind: wire.CmdStatus, off: off, length: length, context: id}
	if err := c.begin(x); err != nil {
		c.release(x)
		return nil, err
	}
	err := c.wait(x, ctx.Done())
	if err == errGone {
		return nil, ctx.Err()
	}
	status := x.status
	c.release(x)
	return status, err
}
