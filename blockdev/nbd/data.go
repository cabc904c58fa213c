package nbd

import (
	"fmt"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
	"github.com/millrace-backup/millrace/vdisk"
)

// ahead is how many requests one read or write that must be split has under way.
const ahead = 4

// ReadAt reads as io.ReaderAt says, straight into p. It need not know the block size.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	in, end := vdisk.Window(p, off, c.size)
	done := 0
	for done < len(in) {
		n, err := c.readSome(in[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, end
}

// readSome reads at least one byte: whole blocks if it can, otherwise a part of one.
func (c *Client) readSome(p []byte, off int64) (int, error) {
	least := c.block.Min
	into, whole := off%least, int64(len(p))
	if off+whole < c.size {
		whole -= whole % least
	}
	if into == 0 && whole > 0 {
		return c.transfer("read", request{kind: wire.CmdRead, off: off, p: p[:whole]})
	}
	b := c.bounce.Get().(*[]byte)
	defer c.bounce.Put(b)
	block := (*b)[:min(least, c.size-(off-into))]
	if _, err := c.transfer("read", request{kind: wire.CmdRead, off: off - into, p: block}); err != nil {
		return 0, err
	}
	return copy(p, block[into:]), nil
}

// transfer reads or writes all of r.p, in as many requests as that takes, and returns how
// much was done before the first that failed.
func (c *Client) transfer(verb string, r request) (n int, err error) {
	p, off := r.p, r.off
	var under [ahead]*call
	first, count, sent := 0, 0, 0
	for {
		for err == nil && count < ahead && sent < len(p) {
			x := c.take(count == 0)
			if x == nil {
				break
			}
			r.p = p[sent:min(len(p), sent+int(c.block.Max))]
			r.off, r.length = off+int64(sent), int64(len(r.p))
			x.request = r
			if err = c.begin(x); err != nil {
				err = c.failure(verb, r, err)
				c.release(x)
				break
			}
			under[(first+count)%ahead] = x
			count++
			sent += len(r.p)
		}
		if count == 0 {
			return n, err
		}
		x := under[first]
		first, count = (first+1)%ahead, count-1
		if failed := c.wait(x, nil); err == nil && failed != nil {
			err = c.failure(verb, x.request, failed)
		} else if err == nil {
			n += len(x.p)
		}
		c.release(x)
	}
}

func (c *Client) failure(verb string, r request, err error) error {
	return fmt.Errorf("%s %d bytes at %d of NBD export %q: %w", verb, r.length, r.off, c.o.Export, err)
}

// take returns a call that is free, or nil where there is none and the caller, who has
// some himself, must not wait.
func (c *Client) take(wait bool) *call {
	if wait {
		return <-c.free
	}
	select {
	case x := <-c.free:
		return x
	default:
		return nil
	}
}

// WriteFlags are how something is to be written.
type WriteFlags uint16

// The flags of a write.
const (
	FUA      WriteFlags = 1 << 0 // it returns when what is written is durable
	NoHole   WriteFlags = 1 << 1 // WriteZeroes: room is kept
	FastZero WriteFlags = 1 << 4 // WriteZeroes: it fails, with ENOTSUP, where it would be as slow as writing
)

// WriteAt writes as io.WriterAt says. Offset and length must be multiples of the smallest
// block. It is durable after Flush.
func (c *Client) WriteAt(p []byte, off int64) (int, error) { return c.Write(p, off, 0) }

// Write is WriteAt with flags.
func (c *Client) Write(p []byte, off int64, flags WriteFlags) (int, error) {
	r := request{kind: wire.CmdWrite, off: off, length: int64(len(p)), p: p}
	if flags&^FUA != 0 {
		return 0, c.failure("write", r, EINVAL)
	}
	flush, err := c.prepare(&r, flags, HasFlags)
	if err != nil {
		return 0, c.failure("write", r, err)
	}
	n, err := c.transfer("write", r)
	if err == nil && flush {
		err = c.Flush()
	}
	return n, err
}

// WriteZeroes makes a range read as zeros, without sending them.
func (c *Client) WriteZeroes(off, length int64, flags WriteFlags) error {
	return c.without("write zeros to", request{kind: wire.CmdZeroes, off: off, length: length}, flags, CanZero)
}

// Trim says that a range is not needed any more: what it reads as afterwards is unknown.
func (c *Client) Trim(off, length int64) error {
	return c.without("trim", request{kind: wire.CmdTrim, off: off, length: length}, 0, CanTrim)
}

// Flush returns when all that was written before is durable.
func (c *Client) Flush() error {
	r := request{kind: wire.CmdFlush}
	if c.flags&CanFlush == 0 {
		return fmt.Errorf("flush NBD export %q: %w", c.o.Export, ENOTSUP)
	}
	if err := c.single(r); err != nil {
		return fmt.Errorf("flush NBD export %q: %w", c.o.Export, err)
	}
	return nil
}

// prepare looks whether the export takes a request that changes it. flush says that it
// has to be made durable afterwards, because the server cannot be told to do so at once.
func (c *Client) prepare(r *request, flags WriteFlags, needs Flags) (flush bool, err error) {
	switch {
	case c.flags&ReadOnly != 0:
		return false, EPERM
	case r.off < 0 || r.length < 0 || r.off > c.size || r.length > c.size-r.off:
		return false, ENOSPC
	case r.off%c.block.Min != 0 || r.length%c.block.Min != 0 && r.off+r.length != c.size:
		return false, fmt.Errorf("%w: not in blocks of %d bytes", EINVAL, c.block.Min)
	case c.flags&needs != needs || flags&FastZero != 0 && c.flags&CanFastZero == 0:
		return false, ENOTSUP
	case flags&FUA != 0 && c.flags&CanFUA == 0:
		if c.flags&CanFlush == 0 {
			return false, ENOTSUP
		}
		flags, flush = flags&^FUA, true
	}
	r.flags = uint16(flags)
	return flush, nil
}

// pieceSize is how much one request without data is about: a multiple of any block.
const pieceSize = 1 << 30

// without makes a change that needs no data.
func (c *Client) without(verb string, r request, flags WriteFlags, needs Flags) error {
	flush, err := c.prepare(&r, flags, needs)
	if flags&^(FUA|NoHole|FastZero) != 0 {
		err = EINVAL
	}
	if err != nil {
		return c.failure(verb, r, err)
	}
	for end := r.off + r.length; r.off < end; r.off += r.length {
		r.length = min(end-r.off, pieceSize)
		if err := c.single(r); err != nil {
			return c.failure(verb, r, err)
		}
	}
	if flush {
		return c.Flush()
	}
	return nil
}

// single makes one request.
func (c *Client) single(r request) error {
	x := c.take(true)
	defer c.release(x)
	x.request = r
	if err := c.begin(x); err != nil {
		return err
	}
	return c.wait(x, nil)
}
