package qemutest

import (
	"bytes"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Proxy is a QMP socket between a driver and QEMU that is cut in mid-conversation.
type Proxy struct {
	Socket string
	target string
	l      *net.UnixListener

	mu       sync.Mutex // guards the rest
	seen     int        // commands that have come
	cutAt    int        // which is the last; 0: none
	deliver  bool       // whether QEMU gets that one
	refuse   bool       // whether nobody gets through after the cut
	Commands []string   // what has come, by the beginning of each line
}

// NewProxy makes a proxy for a VM. It cuts nothing yet.
func NewProxy(t testing.TB, v *VM) *Proxy {
	t.Helper()
	p, err := StartProxy(v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Close ends the proxy.
func (p *Proxy) Close() { _ = p.l.Close() }

// StartProxy is NewProxy outside of a test.
func StartProxy(v *VM) (*Proxy, error) {
	p := &Proxy{Socket: v.Socket + "p", target: v.Socket}
	var err error
	if p.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: p.Socket, Net: "unix"}); err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := p.l.AcceptUnix()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p, nil
}

// Cut has the connection be cut at the n-th command from now on: before QEMU gets it, or,
// with deliver, when QEMU has done it and before its answer comes. With refuse nobody
// gets through afterwards. n 0 cuts nothing.
func (p *Proxy) Cut(n int, deliver, refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.cutAt, p.deliver, p.refuse, p.Commands = 0, n, deliver, refuse, nil
}

// Last is the beginning of the last command that has come.
func (p *Proxy) Last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.Commands) == 0 {
		return ""
	}
	return p.Commands[len(p.Commands)-1]
}

// Over reports whether the connection has been cut.
func (p *Proxy) Over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cutAt > 0 && p.seen >= p.cutAt
}

func (p *Proxy) refuses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refuse && p.cutAt > 0 && p.seen >= p.cutAt
}

func (p *Proxy) serve(c *net.UnixConn) {
	defer c.Close()
	if p.refuses() {
		return
	}
	q, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.target, Net: "unix"})
	if err != nil {
		return
	}
	defer q.Close()
	go func() {
		defer c.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := q.Read(b)
			if err != nil {
				return
			}
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	b, oob := make([]byte, 256<<10), make([]byte, 1024)
	for {
		n, on, _, _, err := c.ReadMsgUnix(b, oob)
		if err != nil || n == 0 {
			return
		}
		fds := filesOf(oob[:on])
		last, deliver := p.count(b[:n])
		if !last || deliver {
			if _, _, err = q.WriteMsgUnix(b[:n], oob[:on], nil); err != nil {
				last = true
			}
		}
		if last && deliver {
			_ = c.CloseWrite()
			time.Sleep(20 * time.Millisecond) // QEMU drops what it has not begun when we hang up
		}
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
		if last {
			return
		}
	}
}

// count notes a command and reports whether it is that at which to cut.
func (p *Proxy) count(line []byte) (cut, deliver bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen += bytes.Count(line, []byte("\n"))
	p.Commands = append(p.Commands, string(line[:min(len(line), 60)]))
	return p.seen == p.cutAt, p.deliver
}

func filesOf(oob []byte) (fds []int) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		more, err := syscall.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, more...)
		}
	}
	return fds
}
