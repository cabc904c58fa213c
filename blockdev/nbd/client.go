package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// ErrConnection says that the connection is over; every call on it fails so.
var ErrConnection = errors.New("NBD connection is over")

// Options are what to open, and how.
type Options struct {
	Export   string
	Contexts []string      // metadata contexts to be asked about, such as [Allocation]
	TLS      *tls.Config   // nil: in the clear. With it a server without TLS is refused
	Timeout  time.Duration // of a request, and of dialling with the handshake; 0: 30 s
}

// Client is an open export. All its methods may be called in parallel.
type Client struct {
	raw  net.Conn // what is closed: closing TLS would wait for a server that does not read
	conn net.Conn // raw, or TLS over it
	o    Options
	export
	done chan struct{} // closed when nobody reads from conn any more

	sending sync.Mutex // one request at a time on the wire
	pieces  [2][]byte  // of a request that is being sent

	free   chan *call // those not in use
	bounce sync.Pool  // buffers of block.Min bytes

	mu    sync.Mutex // guards the rest
	calls [parallel]call
	last  uint64 // request
	over  error  // why nothing more can be done
}

const (
	parallel    = 64      // requests under way
	replyBuffer = 4 << 10 // what goes through it is copied: the beginning of a reply
)

// Dial opens an export on the connection that dial makes.
func Dial(ctx context.Context, dial func(context.Context) (net.Conn, error), o Options) (*Client, error) {
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	late := fmt.Errorf("no answer for %v: %w", o.Timeout, os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, late)
	defer cancel()
	c, err := open(ctx, dial, o)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the server has closed the connection")
		}
		return nil, fmt.Errorf("open NBD export %q: %w", o.Export, err)
	}
	return c, nil
}

func open(ctx context.Context, dial func(context.Context) (net.Conn, error), o Options) (*Client, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &Client{raw: conn, conn: conn, o: o, done: make(chan struct{}), free: make(chan *call, parallel)}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = c.handshake(ctx)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close() // what happened before counts
		return nil, err
	}
	c.bounce.New = func() any { b := make([]byte, c.block.Min); return &b }
	for i := range c.calls {
		x := &c.calls[i]
		x.slot, x.done, x.limit = uint64(i), make(chan struct{}, 1), time.NewTimer(time.Hour)
		x.limit.Stop()
		x.got = make([]span, 0, 8) // so that the first reads do not allocate either
		c.free <- x
	}
	go c.listen()
	return c, nil
}

func (c *Client) handshake(ctx context.Context) (err error) {
	if err := greet(c.raw); err != nil {
		return err
	}
	if c.o.TLS != nil {
		// Nothing is read ahead here, so nothing sent in the clear can pass for sealed.
		if err := option(c.raw, wire.OptStartTLS, nil, nil); err != nil {
			return err
		}
		sealed := tls.Client(c.raw, c.o.TLS)
		if err := sealed.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		c.conn = sealed
	}
	c.export, err = negotiate(c.conn, c.o.Export, c.o.Contexts)
	return err
}

// Size is the export's, in bytes.
func (c *Client) Size() int64 { return c.size }

// Flags are what the export can do.
func (c *Client) Flags() Flags { return c.flags }

// BlockSize is what requests have to be multiples of.
func (c *Client) BlockSize() BlockSize { return c.block }

// Close takes leave of the server. Calls that are under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	first := c.over == nil
	if first {
		c.over = fmt.Errorf("%w: we have closed it", ErrConnection)
		_ = c.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)) // also of whoever is sending now
	}
	c.mu.Unlock()
	if first {
		var bye [wire.RequestSize]byte
		binary.BigEndian.PutUint32(bye[:], wire.MagicAsk)
		binary.BigEndian.PutUint16(bye[6:], wire.CmdDisc)
		c.sending.Lock()
		_, _ = c.conn.Write(bye[:]) // it is a courtesy
		c.sending.Unlock()
		_ = c.raw.Close()
	}
	<-c.done
	return nil
}

// end makes the connection useless. The first reason counts.
func (c *Client) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over == nil {
		c.over = fmt.Errorf("%w: %w", ErrConnection, why)
		_ = c.raw.Close() // the reason is what counts
	}
}

// begin sends a request. What it says of x is set before.
func (c *Client) begin(x *call) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	if c.over != nil {
		defer c.mu.Unlock()
		return c.over
	}
	c.last++
	cookie := c.last<<8 | x.slot
	x.cookie = cookie
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.o.Timeout)) // here, so that Close has the last word
	c.mu.Unlock()
	binary.BigEndian.PutUint32(x.head[:], wire.MagicAsk)
	binary.BigEndian.PutUint16(x.head[4:], x.flags)
	binary.BigEndian.PutUint16(x.head[6:], x.kind)
	binary.BigEndian.PutUint64(x.head[8:], cookie)
	binary.BigEndian.PutUint64(x.head[16:], uint64(x.off))
	binary.BigEndian.PutUint32(x.head[24:], uint32(x.length))
	if err := c.send(x); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("it takes no request for %v: %w", c.o.Timeout, err)
		}
		c.end(err)
	}
	x.limit.Reset(c.o.Timeout)
	return nil
}

func (c *Client) send(x *call) error {
	if x.kind != wire.CmdWrite {
		_, err := c.conn.Write(x.head[:])
		return err
	}
	c.pieces = [2][]byte{x.head[:], x.p}
	all := net.Buffers(c.pieces[:])
	_, err := all.WriteTo(c.conn)
	c.pieces = [2][]byte{}
	return err
}

// errGone says that nobody waits for a request any more. It is not the caller's then.
var errGone = errors.New("nobody waits for it")

// wait returns what came of a request. When it returns nobody touches its buffer any
// more, unless gone was closed before, and the error is errGone.
func (c *Client) wait(x *call, gone <-chan struct{}) error {
	select {
	case <-x.done:
	case <-x.limit.C:
		c.end(fmt.Errorf("no answer for %v: %w", c.o.Timeout, os.ErrDeadlineExceeded))
		<-x.done
	case <-gone:
		go func() { // the answer has to come all the same
			_ = c.wait(x, nil)
			c.release(x)
		}()
		return errGone
	}
	x.limit.Stop()
	return x.err
}

// release makes x ready for another request.
func (c *Client) release(x *call) {
	x.request, x.answer = request{}, answer{got: x.got[:0]}
	if cap(x.got) > 64 {
		x.got = nil
	}
	c.free <- x
}

// listen takes replies in until the connection ends.
func (c *Client) listen() {
	r := bufio.NewReaderSize(c.conn, replyBuffer)
	var err error
	for err == nil {
		err = c.reply(r)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the server has closed it")
	}
	c.end(err)
	_ = c.raw.Close()
	c.mu.Lock()
	for i := range c.calls {
		if x := &c.calls[i]; x.cookie != 0 {
			x.err, x.cookie = c.over, 0
			x.done <- struct{}{}
		}
	}
	c.mu.Unlock()
	close(c.done)
}
