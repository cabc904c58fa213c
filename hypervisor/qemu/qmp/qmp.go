// Package qmp talks to a running QEMU over its machine protocol (QMP): JSON objects,
// one per line, over a Unix socket.
//
// [Dial] connects, takes the greeting and leaves the negotiation phase; [Client.Do] runs
// a command and decodes its answer; [Client.Send] gives QEMU an open file with a
// command, as add-fd and getfd want it. Events that come in between are given to the
// function of [Options.Event]. A client is for any number of goroutines: commands run
// one after the other, as QEMU runs them anyway.
//
// A QMP socket serves one client at a time: a second one connects, and gets no greeting
// until the first has gone. Dial says so ([ErrBusy]) when the greeting does not come.
//
// What comes from QEMU is bounded: a line of more than [MaxLine] bytes, or one that is
// no JSON object, ends the connection. Every command has a time limit; when it passes
// the connection is of no use any more, because an answer may still come, and every
// later call fails with the same error.
//
// Source: QEMU's docs/interop/qmp-spec.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// MaxLine is the longest line that is read, in bytes: the list of the block nodes of a
// guest with 100 disks has about half a megabyte.
const MaxLine = 32 << 20

// Errors that callers tell apart.
var (
	// ErrBusy says that the socket is there and somebody else has it.
	ErrBusy = errors.New("no greeting from QEMU: another program has this QMP socket")
	// ErrClosed says that the connection is over.
	ErrClosed = errors.New("connection to QEMU is over")
)

// errUnsent says that a file could not be had, so that QEMU has not heard of the command.
var errUnsent = errors.New("the file cannot be sent")

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string // GenericError, CommandNotFound, DeviceNotFound, ...
	Desc    string // for people; not stable between versions
}

func (e *Error) Error() string { return e.Command + ": " + e.Desc }

// Event is something that QEMU tells on its own.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// Options are how to talk. The zero value is usable.
type Options struct {
	Greeting time.Duration // how long the greeting may take; 0: 10 s
	Command  time.Duration // how long an answer may take; 0: 60 s
	Event    func(Event)   // called from one goroutine, must not call the client; nil: events are dropped
}

// Version is QEMU's.
type Version struct{ Major, Minor, Micro int }

// AtLeast reports whether it is this version or a later one.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// Client is a connection in command mode.
type Client struct {
	Version Version
	conn    net.Conn
	o       Options
	turn    chan struct{} // who has its element runs a command
	last    uint64        // id of the last command

	mu      sync.Mutex
	waiting map[string]chan answer
	over    error // why nothing more can be done
	done    chan struct{}
}

type answer struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID *string `json:"id"`
	Event
	Greeting *struct {
		Version struct {
			QEMU Version `json:"qemu"`
		} `json:"version"`
	} `json:"QMP"`
}

// Dial connects to the Unix socket at path.
func Dial(ctx context.Context, path string, o Options) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU at %s: %w", path, err)
	}
	c, err := New(ctx, conn, o)
	if err != nil {
		return nil, fmt.Errorf("talk to QEMU at %s: %w", path, err)
	}
	return c, nil
}

// New begins on a connection that is there. It owns it, also when it fails.
func New(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	if o.Greeting == 0 {
		o.Greeting = 10 * time.Second
	}
	if o.Command == 0 {
		o.Command = time.Minute
	}
	c := &Client{conn: conn, o: o, waiting: map[string]chan answer{}, done: make(chan struct{}), turn: make(chan struct{}, 1)}
	lines := bufio.NewReaderSize(conn, 64<<10)
	_ = conn.SetReadDeadline(time.Now().Add(o.Greeting)) // first, or it would undo the other
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	greeting, err := readLine(lines)
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	var a answer
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && len(greeting) == 0:
		err = ErrBusy
	case err == nil:
		if err = json.Unmarshal(greeting, &a); err == nil && a.Greeting == nil {
			err = errors.New("this is no QMP socket: its first line is no greeting")
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	_ = conn.SetReadDeadline(time.Time{})
	c.Version = a.Greeting.Version.QEMU
	go c.listen(lines)
	if err := c.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// readLine reads up to a newline, and not more than MaxLine.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxLine {
			return nil, fmt.Errorf("a line of more than %d bytes", MaxLine)
		}
		if err == nil && line == nil {
			return bytes.Clone(part), nil
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// listen takes in what QEMU says until the connection ends.
func (c *Client) listen(lines *bufio.Reader) {
	for {
		line, err := readLine(lines)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("QEMU has closed it")
			}
			c.end(err)
			return
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			c.end(fmt.Errorf("what QEMU says is no QMP: %w", err))
			return
		}
		switch {
		case a.Event.Name != "":
			if c.o.Event != nil {
				c.o.Event(a.Event)
			}
		case a.ID != nil && (a.Return == nil) != (a.Error == nil):
			c.mu.Lock()
			to := c.waiting[*a.ID]
			delete(c.waiting, *a.ID)
			c.mu.Unlock()
			if to != nil {
				to <- a
			}
		default: // QEMU could not make out what the command was, or an id was lost
			c.end(fmt.Errorf("an answer without the id of its command, or that says nothing: %.200q", line))
			return
		}
	}
}

// end makes the connection useless. The first reason counts.
func (c *Client) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over == nil {
		c.over = fmt.Errorf("%w: %w", ErrClosed, why)
		close(c.done)
		_ = c.conn.Close() // the reason is what counts
	}
}

func (c *Client) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// Conn is the connection, to be looked at.
func (c *Client) Conn() net.Conn { return c.conn }

// Done is closed when the connection is over.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection.
func (c *Client) Close() error {
	c.end(errors.New("we have closed it"))
	return nil
}

// Do runs a command. args is what encoding/json makes an object of, or nil; the answer
// is decoded into out, if that is not nil. The error is an *Error when QEMU refuses.
func (c *Client) Do(ctx context.Context, command string, args, out any) error {
	return c.do(ctx, command, args, out, nil)
}

// Send runs a command that takes an open file. QEMU has it from then on; ours stays
// ours.
func (c *Client) Send(ctx context.Context, file *os.File, command string, args, out any) error {
	return c.do(ctx, command, args, out, file)
}

func (c *Client) do(ctx context.Context, command string, args, out any, file *os.File) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", command, ctx.Err())
	case <-c.done:
		return fmt.Errorf("%s: %w", command, c.why())
	}
	if err := ctx.Err(); err != nil { // nothing has been asked, so nothing is over
		return fmt.Errorf("%s: %w", command, err)
	}
	c.last++
	name := strconv.FormatUint(c.last, 10)
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        string `json:"id"`
	}{command, args, name})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	got := make(chan answer, 1)
	c.mu.Lock()
	c.waiting[name] = got
	over := c.over
	c.mu.Unlock()
	if over != nil {
		return fmt.Errorf("%s: %w", command, over)
	}
	limit := time.NewTimer(c.o.Command)
	defer limit.Stop()
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.o.Command))
	stop := context.AfterFunc(ctx, func() { c.end(ctx.Err()) }) // QEMU may not read
	err = write(c.conn, append(line, '\n'), file)
	stop()
	if errors.Is(err, errUnsent) {
		c.mu.Lock()
		delete(c.waiting, name)
		c.mu.Unlock()
		return fmt.Errorf("%s: %w", command, err)
	}
	if err != nil {
		c.end(err)
		return fmt.Errorf("%s: %w", command, c.why())
	}
	select {
	case a := <-got:
		return a.into(command, out)
	case <-c.done:
		return fmt.Errorf("%s: %w", command, c.why())
	case <-limit.C:
		c.end(fmt.Errorf("%s was not answered in %v", command, c.o.Command))
		return fmt.Errorf("%s: %w", command, c.why())
	case <-ctx.Done():
		// What became of the command is not known, so nothing can follow it here.
		c.end(ctx.Err())
		return fmt.Errorf("%s: %w", command, ctx.Err())
	}
}

func (a *answer) into(command string, out any) error {
	if a.Error != nil {
		return &Error{Command: command, Class: a.Error.Class, Desc: a.Error.Desc}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(a.Return, out); err != nil {
		return fmt.Errorf("%s: its answer: %w", command, err)
	}
	return nil
}
