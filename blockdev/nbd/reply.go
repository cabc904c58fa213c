package nbd

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// call is a request that is under way, or a place for one.
type call struct {
	slot   uint64 // its number in Client.calls
	cookie uint64 // of the request that it waits for; 0: none. Client.mu guards it
	request
	answer // belongs to the goroutine that reads replies while there is a cookie
	done   chan struct{}
	limit  *time.Timer
	head   [wire.RequestSize]byte
}

// request is what a call asks for.
type request struct {
	kind    uint16
	flags   uint16
	off     int64
	length  int64
	p       []byte // what is read into, or written
	context uint32 // status: the one that is asked about
}

// answer is what has come so far.
type answer struct {
	got    []span // parts of p that are filled
	status []Status
	told   []uint32 // contexts of which there is an answer
	chunks int
	err    error
}

type span struct{ from, to int64 }

// head is the beginning of a reply, or of one chunk of it.
type head struct {
	simple bool
	flags  uint16
	kind   uint16
	errno  Errno // of a simple one
	cookie uint64
	size   int // of what follows
}

func readHead(r *bufio.Reader) (h head, err error) {
	b, err := r.Peek(16)
	if err != nil {
		return h, err
	}
	h.cookie = binary.BigEndian.Uint64(b[8:])
	switch magic := binary.BigEndian.Uint32(b); magic {
	case wire.MagicSimple:
		h.simple, h.flags, h.errno = true, wire.ChunkDone, Errno(binary.BigEndian.Uint32(b[4:]))
		_, err = r.Discard(16)
	case wire.MagicChunk:
		if b, err = r.Peek(20); err != nil {
			return h, err
		}
		h.flags, h.kind = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		h.size = int(binary.BigEndian.Uint32(b[16:]))
		_, err = r.Discard(20)
	default:
		err = broken("a reply begins with %08x", magic)
	}
	return h, err
}

// reply reads one reply, or one chunk of one.
func (c *Client) reply(r *bufio.Reader) error {
	h, err := readHead(r)
	if err != nil {
		return err
	}
	var x *call
	c.mu.Lock()
	if slot := h.cookie & 0xff; slot < parallel && h.cookie != 0 && c.calls[slot].cookie == h.cookie {
		x = &c.calls[slot]
	}
	c.mu.Unlock()
	if x == nil {
		return broken("a reply to request %#x, which is not under way", h.cookie)
	}
	if x.chunks++; x.chunks > maxChunks {
		return broken("more than %d chunks in a reply", maxChunks)
	}
	if h.simple {
		err = x.simple(h.errno)
	} else {
		err = c.chunk(x, r, h)
	}
	if err != nil || h.flags&wire.ChunkDone == 0 {
		return err
	}
	if x.err == nil {
		if err := x.complete(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	x.cookie = 0
	c.mu.Unlock()
	x.done <- struct{}{}
	return nil
}

// simple takes in a reply without chunks. To a read or a status it can only be a refusal:
// complete misses the rest.
func (x *call) simple(n Errno) error {
	if x.chunks > 1 {
		return broken("a simple reply after chunks")
	}
	if n != 0 {
		x.err = n
	}
	return nil
}

// chunk takes in what a chunk says.
func (c *Client) chunk(x *call, r *bufio.Reader, h head) error {
	switch {
	case h.kind == wire.ChunkNone && h.size == 0 && h.flags&wire.ChunkDone != 0:
		return nil
	case h.kind == wire.ChunkData && x.kind == wire.CmdRead && h.size > 8:
		part, err := x.part(r, int64(h.size)-8)
		if err == nil {
			_, err = io.ReadFull(r, part)
		}
		return err
	case h.kind == wire.ChunkHole && x.kind == wire.CmdRead && h.size == 12:
		return x.hole(r)
	case h.kind == wire.ChunkStatus && x.kind == wire.CmdStatus && h.size > 4 && h.size%8 == 4:
		return c.statuses(x, r, h.size/8)
	case h.kind&wire.ChunkErrorBit != 0 && h.size >= 6 && h.size <= maxError+64:
		return x.failed(r, h)
	}
	return broken("a chunk of type %d with %d bytes in reply to a request of type %d", h.kind, h.size, x.kind)
}

// failed reads a chunk that says why a request fails. The first one counts.
func (x *call) failed(r *bufio.Reader, h head) error {
	b := make([]byte, h.size)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	n, text := Errno(binary.BigEndian.Uint32(b)), int(binary.BigEndian.Uint16(b[4:]))
	rest := len(b) - 6 - text // after the text; unknown kinds of errors may have anything there
	if n == 0 || rest < 0 || h.kind == wire.ChunkError && rest != 0 || h.kind == wire.ChunkErrorOffset && rest != 8 {
		return broken("an error chunk %.100x of type %#x", b, h.kind)
	}
	if x.err != nil {
		return nil
	}
	x.err = n
	if h.kind == wire.ChunkErrorOffset {
		at := int64(binary.BigEndian.Uint64(b[6+text:]))
		if at < x.off || at-x.off >= x.length {
			return broken("an error at %d in reply to a request of %d bytes at %d", uint64(at), x.length, x.off)
		}
		x.err = fmt.Errorf("at %d: %w", at, x.err)
	}
	if text > 0 {
		x.err = fmt.Errorf("%w: %q", x.err, b[6:6+text])
	}
	return nil
}

// part reads an offset and returns that part of the buffer, n bytes long.
func (x *call) part(r *bufio.Reader, n int64) ([]byte, error) {
	b, err := r.Peek(8)
	if err != nil {
		return nil, err
	}
	at := int64(binary.BigEndian.Uint64(b))
	if at < x.off || n < 1 || at-x.off > x.length || n > x.length-(at-x.off) {
		return nil, broken("%d bytes at %d in reply to a read of %d at %d", n, uint64(at), x.length, x.off)
	}
	if _, err := r.Discard(8); err != nil {
		return nil, err
	}
	at -= x.off
	x.got = append(x.got, span{at, at + n})
	return x.p[at : at+n], nil
}

func (x *call) hole(r *bufio.Reader) error {
	b, err := r.Peek(12)
	if err != nil {
		return err
	}
	part, err := x.part(r, int64(binary.BigEndian.Uint32(b[8:])))
	if err != nil {
		return err
	}
	clear(part)
	_, err = r.Discard(4)
	return err
}

// complete reports whether what came is what was asked for: of a read every byte once.
func (x *call) complete() error {
	if x.kind == wire.CmdStatus && len(x.status) == 0 {
		return broken("it does not say what was asked about %d bytes at %d", x.length, x.off)
	}
	if x.kind != wire.CmdRead {
		return nil
	}
	slices.SortFunc(x.got, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	at := int64(0)
	for _, s := range x.got {
		if s.from != at {
			return broken("a read of %d bytes at %d is answered with a gap or an overlap at %d", x.length, x.off, x.off+min(at, s.from))
		}
		at = s.to
	}
	if at != x.length {
		return broken("a read of %d bytes at %d is answered with %d", x.length, x.off, at)
	}
	return nil
}
