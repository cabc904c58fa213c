// Package agent talks to the QEMU guest agent inside a guest, over the Unix socket that
// QEMU connects with the guest's serial port org.qemu.guest_agent.0.
//
// [Dial] connects and finds out whether anybody answers; [Client.Freeze] has the guest
// flush its file systems and hold writes back, [Client.Thaw] lets it go on.
//
// The other end is a guest, and may be anything. Nothing it says is believed beyond the
// shape of an answer, answers are bounded ([MaxLine]), and every call ends when its
// context does. The line is a byte stream without a session: what was asked before us,
// by somebody who died, may be answered to us. So Dial, and Thaw, and whatever follows a
// call that was given up, begin with guest-sync-delimited and drop all that comes before
// its answer.
//
// Freeze may hang: a file system that waits for a disk, a hook in the guest that never
// ends. A freeze that was given up may still succeed later, and would leave the guest
// frozen with nobody who knows. So whoever gives up calls [Client.Abandon], which
// queues a thaw behind it in the line.
//
// Source: QEMU's docs/interop/qemu-ga-ref.
package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// MaxLine is the longest answer that is read, in bytes.
const MaxLine = 1 << 20

// maxSkipped is how much that is not for us may come before the answer to a sync.
const maxSkipped = 4 * MaxLine

// Errors that callers tell apart.
var (
	// ErrSilent says that nobody answers: there is no agent in the guest, it is not
	// running, or it hangs.
	ErrSilent = errors.New("the guest agent does not answer")
	// ErrRefused says that the agent has answered, with an error of its own.
	ErrRefused = errors.New("the guest agent refuses")
)

// Client is a connection to the agent. It is for one goroutine.
type Client struct {
	conn   net.Conn
	r      *bufio.Reader
	behind bool // an answer is owed that nobody waits for any more
}

// Dial connects to the Unix socket at path and waits until the agent has answered.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSilent, err)
	}
	c := &Client{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	if err := c.sync(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// Close hangs up. What was asked last may still be carried out.
func (c *Client) Close() error { return c.conn.Close() }

// request is one line to the agent.
func request(command string, args any) []byte {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		panic("agent: internal error: a request that cannot be encoded: " + err.Error())
	}
	return append(b, '\n')
}

// sync makes sure that the next answer is to what is asked next.
func (c *Client) sync(ctx context.Context) error {
	id := rand.Int64N(1 << 52) // the agent keeps it as a double, some versions at least
	end := c.until(ctx)
	defer end()
	// The byte before it ends whatever half of a line somebody may have left. The agent
	// complains of it, which is not waited for.
	if _, err := c.conn.Write(append([]byte{0xff}, request("guest-sync-delimited", map[string]int64{"id": id})...)); err != nil {
		return silent(ctx, err)
	}
	for skipped := 0; skipped < maxSkipped; {
		// All up to the delimiter is what others were to have.
		part, err := c.r.ReadSlice(0xff)
		skipped += len(part)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return silent(ctx, err)
		}
		line, err := c.line()
		if err != nil {
			return silent(ctx, err)
		}
		skipped += len(line)
		var a struct {
			Return *int64 `json:"return"`
		}
		if json.Unmarshal(line, &a) == nil && a.Return != nil && *a.Return == id {
			c.behind = false
			return nil
		}
	}
	return fmt.Errorf("%w: it talks without end", ErrSilent)
}

// until ends reads and writes when ctx does, until the returned function is called.
func (c *Client) until(ctx context.Context) (end func()) {
	deadline, _ := ctx.Deadline()
	_ = c.conn.SetDeadline(deadline)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.conn.SetDeadline(time.Unix(1, 0))
		close(ended)
	})
	return func() {
		if !stop() {
			<-ended // or it would end the next call: the thaw after a freeze that was given up
		}
	}
}

func silent(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	} else if errors.Is(err, os.ErrDeadlineExceeded) { // which is that of ctx, a moment early
		err = context.DeadlineExceeded
	}
	return fmt.Errorf("%w: %w", ErrSilent, err)
}

// line reads an answer, without what is left before its delimiter of another that was
// cut off.
func (c *Client) line() ([]byte, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if len(line)+len(part) > MaxLine {
			return nil, fmt.Errorf("an answer of more than %d bytes", MaxLine)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line[bytes.LastIndexByte(line, 0xff)+1:], err
		}
	}
}

// do asks and decodes the answer.
func (c *Client) do(ctx context.Context, command string, out any) error {
	if c.behind {
		if err := c.sync(ctx); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	c.behind = true
	end := c.until(ctx)
	defer end()
	if _, err := c.conn.Write(request(command, nil)); err != nil {
		return fmt.Errorf("%s: %w", command, silent(ctx, err))
	}
	line, err := c.line()
	if err != nil {
		return fmt.Errorf("%s: %w", command, silent(ctx, err))
	}
	c.behind = false
	var a struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(line, &a); {
	case err != nil:
		return fmt.Errorf("%s: %w: its answer is none: %w", command, ErrRefused, err)
	case a.Error != nil: // in words of the guest, which may be meant for a terminal
		return fmt.Errorf("%s: %w: %.300q", command, ErrRefused, a.Error.Desc)
	case len(a.Return) == 0 || string(a.Return) == "null":
		return fmt.Errorf("%s: %w: its answer says nothing", command, ErrRefused)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(a.Return, out); err != nil {
		return fmt.Errorf("%s: %w: its answer is none: %w", command, ErrRefused, err)
	}
	return nil
}

// Freeze flushes the guest's file systems and has them hold writes back. It returns
// how many they are. After an error, or none, they may be frozen: Thaw, or Abandon.
func (c *Client) Freeze(ctx context.Context) (fileSystems int, err error) {
	err = c.do(ctx, "guest-fsfreeze-freeze", &fileSystems)
	if err == nil && fileSystems < 0 {
		err = fmt.Errorf("guest-fsfreeze-freeze: %w: it counts %d", ErrRefused, fileSystems)
	}
	return fileSystems, err
}

// Thaw lets the guest's file systems go on, and returns only when none is frozen. It
// may be called whatever came before, and again.
func (c *Client) Thaw(ctx context.Context) error {
	if err := c.sync(ctx); err != nil { // there may still be the answer to a freeze
		return err
	}
	err := c.do(ctx, "guest-fsfreeze-thaw", nil)
	if err != nil && !errors.Is(err, ErrRefused) {
		return err
	}
	frozen, status := c.Frozen(ctx)
	switch {
	case status != nil:
		return errors.Join(err, status)
	case frozen && err == nil:
		err = errors.New("guest-fsfreeze-thaw: file systems are frozen all the same")
	case !frozen:
		err = nil
	}
	return err
}

// Frozen reports whether any file system of the guest is frozen by the agent.
func (c *Client) Frozen(ctx context.Context) (bool, error) {
	var state string
	err := c.do(ctx, "guest-fsfreeze-status", &state)
	if err == nil && state != "frozen" && state != "thawed" {
		err = fmt.Errorf("guest-fsfreeze-status: %w: it knows of a state %.40q", ErrRefused, state)
	}
	return state == "frozen", err
}

// Abandon queues a thaw behind whatever the agent is at, without waiting for it.
func (c *Client) Abandon() error {
	c.behind = true
	_ = c.conn.SetDeadline(time.Now().Add(time.Second))
	// What was asked last may have been cut off half-way, which must not spoil the thaw.
	_, err := c.conn.Write(append([]byte{0xff}, request("guest-fsfreeze-thaw", nil)...))
	return err
}

// OS is the name of the guest's operating system as the agent gives it: "mswindows",
// "debian", or nothing if it does not know.
func (c *Client) OS(ctx context.Context) (string, error) {
	var info struct {
		ID string `json:"id"`
	}
	err := c.do(ctx, "guest-get-osinfo", &info)
	return info.ID, err
}
