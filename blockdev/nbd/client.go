package nbd

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
)

// Errors that callers tell apart.
var (
	// ErrNoContext says that the export has no such metadata context.
	ErrNoContext = errors.New("the export has no such metadata context")
	// ErrConnection says that the connection is over; every call on it fails so.
	ErrConnection = errors.New("NBD connection is over")
)

// Options are what to open, and how.
type Options struct {
	Export   string
	Contexts []string      // metadata contexts to be asked about
	Timeout  time.Duration // of a request, and of the handshake; 0: 30 s
}

// Client is an open export.
type Client struct {
	conn net.Conn
	o    Options
	export
	done chan struct{} // closed when nobody reads from conn any more

	sending sync.Mutex // one request at a time on the wire

	mu    sync.Mutex // guards the rest
	calls map[uint64]*call
	last  uint64 // cookie of the last request
	over  error  // why nothing more can be done
}

// call is a request that is under way. All but done belongs to the goroutine that reads
// replies until done is closed.
type call struct {
	kind   uint16
	off    int64
	length int64
	p      []byte // read: what is filled
	got    []span // read: which parts are
	status map[uint32][]Status
	chunks int
	err    error
	done   chan struct{}
}

type span struct{ from, to int64 }

// Dial opens an export on a connection, which it owns, also when it fails.
func Dial(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	c := &Client{conn: conn, o: o, calls: map[uint64]*call{}, done: make(chan struct{})}
	_ = conn.SetDeadline(time.Now().Add(o.Timeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	var err error
	c.export, err = handshake(conn, o.Export, o.Contexts)
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open NBD export %q: %w", o.Export, err), conn.Close())
	}
	_ = conn.SetDeadline(time.Time{})
	if c.maxRequest == 0 || c.maxRequest > maxRequest {
		c.maxRequest = maxRequest
	}
	if c.maxRequest < 4096 {
		return nil, errors.Join(broken("it takes requests of %d bytes at most", c.maxRequest), conn.Close())
	}
	go c.listen()
	return c, nil
}

// Size is the export's, in bytes.
func (c *Client) Size() int64 { return c.size }

// Close takes leave of the server. Calls that are under way fail.
func (c *Client) Close() error {
	c.sending.Lock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.conn.Write(request(cmdDisc, 0, 0, 0)) // it is a courtesy
	c.sending.Unlock()
	c.end(errors.New("we have closed it"))
	<-c.done
	return nil
}

// end makes the connection useless. The first reason counts.
func (c *Client) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over == nil {
		c.over = fmt.Errorf("%w: %w", ErrConnection, why)
		_ = c.conn.Close() // the reason is what counts
	}
}

func request(kind uint16, cookie uint64, off, length int64) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 28), magicAsk)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// begin sends a request.
func (c *Client) begin(x *call) error {
	x.done = make(chan struct{})
	c.mu.Lock()
	if c.over != nil {
		defer c.mu.Unlock()
		return c.over
	}
	c.last++
	cookie := c.last
	c.calls[cookie] = x
	c.mu.Unlock()
	c.sending.Lock()
	defer c.sending.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.o.Timeout))
	if _, err := c.conn.Write(request(x.kind, cookie, x.off, x.length)); err != nil {
		c.end(err)
	}
	return nil
}

// wait returns what came of a request. When it returns nobody touches its buffer any
// more.
func (c *Client) wait(ctx context.Context, x *call) error {
	limit := time.NewTimer(c.o.Timeout)
	defer limit.Stop()
	select {
	case <-x.done:
	case <-limit.C:
		c.end(fmt.Errorf("no answer for %v", c.o.Timeout))
	case <-ctx.Done():
		c.end(ctx.Err()) // the answer would still come
	}
	<-x.done
	return x.err
}

// listen takes replies in until the connection ends.
func (c *Client) listen() {
	r := bufio.NewReaderSize(c.conn, 64<<10)
	var err error
	for err == nil {
		err = c.reply(r)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the server has closed it")
	}
	c.end(err)
	c.mu.Lock()
	for cookie, x := range c.calls {
		delete(c.calls, cookie)
		x.err = c.over
		close(x.done)
	}
	c.mu.Unlock()
	close(c.done)
}

// reply reads one reply, or one chunk of one.
func (c *Client) reply(r *bufio.Reader) error {
	var head [20]byte
	if _, err := io.ReadFull(r, head[:16]); err != nil {
		return err
	}
	var flags, kind uint16
	var cookie uint64
	var size uint32
	switch binary.BigEndian.Uint32(head[:]) {
	case magicChunk:
		if _, err := io.ReadFull(r, head[16:]); err != nil {
			return err
		}
		flags, kind = binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:])
		cookie, size = binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint32(head[16:])
	case magicSimple:
		flags, cookie = chunkDone, binary.BigEndian.Uint64(head[8:])
	default:
		return broken("a reply begins with %x", head[:4])
	}
	c.mu.Lock()
	x := c.calls[cookie]
	c.mu.Unlock()
	if x == nil {
		return broken("a reply to request %d, which is not under way", cookie)
	}
	if x.chunks++; x.chunks > maxChunks {
		return broken("more than %d chunks in a reply", maxChunks)
	}
	if binary.BigEndian.Uint32(head[:]) == magicSimple {
		if n := binary.BigEndian.Uint32(head[4:]); n != 0 {
			x.err = cmp.Or(x.err, error(Errno(n)))
		} else if x.kind == cmdRead {
			return broken("a simple reply to a read")
		}
	} else if err := x.chunk(r, kind, size); err != nil {
		return err
	}
	if flags&chunkDone == 0 {
		return nil
	}
	if x.err == nil && x.kind == cmdRead {
		if err := x.covered(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	delete(c.calls, cookie)
	c.mu.Unlock()
	close(x.done)
	return nil
}

// chunk takes in what a chunk of size bytes says.
func (x *call) chunk(r *bufio.Reader, kind uint16, size uint32) error {
	switch {
	case kind == chunkNone && size == 0:
		return nil
	case kind == chunkData && x.kind == cmdRead && size > 8:
		part, err := x.part(r, int64(size)-8)
		if err == nil {
			_, err = io.ReadFull(r, part)
		}
		return err
	case kind == chunkHole && x.kind == cmdRead && size == 12:
		return x.hole(r)
	case kind == chunkStatus && x.kind == cmdStatus && size > 4 && size%8 == 4:
		return x.statuses(r, int(size/8))
	case kind&chunkErrorBit != 0 && size >= 6 && size <= maxError:
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		n, text := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))
		if n == 0 || text > len(b)-6 {
			return broken("an error chunk %x", b)
		}
		x.err = cmp.Or(x.err, error(Errno(n)))
		if text > 0 {
			x.err = fmt.Errorf("%w: %q", x.err, b[6:6+text])
		}
		return nil
	}
	return broken("a chunk of type %d with %d bytes in reply to a request of type %d", kind, size, x.kind)
}

// part reads an offset and returns that part of the buffer, n bytes long.
func (x *call) part(r *bufio.Reader, n int64) ([]byte, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	at := int64(binary.BigEndian.Uint64(b[:])) - x.off
	if at < 0 || n < 1 || at > x.length || n > x.length-at {
		return nil, broken("%d bytes at %d in reply to a read of %d at %d", n, at+x.off, x.length, x.off)
	}
	x.got = append(x.got, span{at, at + n})
	return x.p[at : at+n], nil
}

func (x *call) hole(r *bufio.Reader) error {
	head, err := r.Peek(12)
	if err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(head[8:]))
	part, err := x.part(r, n)
	if err != nil {
		return err
	}
	clear(part)
	_, err = r.Discard(4)
	return err
}

// covered reports whether what came is what was asked for, every byte once.
func (x *call) covered() error {
	slices.SortFunc(x.got, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	at := int64(0)
	for _, s := range x.got {
		if s.from != at {
			return broken("a read of %d bytes at %d is answered with a gap or an overlap at %d", x.length, x.off, x.off+at)
		}
		at = s.to
	}
	if at != x.length {
		return broken("a read of %d bytes at %d is answered with %d", x.length, x.off, at)
	}
	return nil
}

// ReadAt reads as io.ReaderAt says. It may be called in parallel.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	want, end := vdisk.Window(p, off, c.size)
	if len(want) == 0 {
		return 0, end
	}
	n := 0
	for n < len(want) {
		// What one request cannot take goes in several, one after the other.
		part := want[n:min(len(want), n+int(c.maxRequest))]
		x := &call{kind: cmdRead, off: off + int64(n), length: int64(len(part)), p: part}
		err := c.begin(x)
		if err == nil {
			err = c.wait(context.Background(), x)
		}
		if err != nil {
			return n, fmt.Errorf("read %d bytes at %d from NBD export %q: %w", x.length, x.off, c.o.Export, err)
		}
		n += len(part)
	}
	return n, end
}
