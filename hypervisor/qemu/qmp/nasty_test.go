package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain looks whether a test, of all those with servers that do wrong, has left a goroutine
// of a client behind.
func TestMain(m *testing.M) {
	code := m.Run()
	stacks := make([]byte, 1<<20)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(left, "qmp.(*Client)") {
			break
		}
		if time.Now().After(end) {
			fmt.Println("goroutines of clients are left:\n" + left)
			code = max(code, 1)
			break
		}
	}
	os.Exit(code)
}

// A command whose caller had gone before it was sent leaves the connection to the others.
func TestCancelledBefore(t *testing.T) {
	c, err := New(t.Context(), server(t, hello, func(_, id string) string { return `{"return": {}, "id": "` + id + `"}` + "\n" }), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 { // it would be by chance
		if err := c.Do(ctx, "query-status", nil, nil); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if err := c.Do(t.Context(), "query-status", nil, nil); err != nil {
		t.Error(err)
	}
}

// Who goes away while QEMU does not even read the command need not wait for it.
func TestCancelledWhileSending(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		p := make([]byte, 1000)
		_, _ = theirs.Write([]byte(hello))
		_, _ = theirs.Read(p)
		_, _ = theirs.Write([]byte(`{"return": {}, "id": "1"}` + "\n"))
		_, _ = theirs.Read(p[:1]) // the rest is never read
		cancel()
	}()
	c, err := New(t.Context(), ours, Options{Command: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if err := c.Do(ctx, "query-status", nil, nil); !errors.Is(err, context.Canceled) || time.Since(began) > 30*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if err := c.Do(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// waits is a connection that is slow to set the first deadline.
type waits struct {
	net.Conn
	past chan struct{}
}

func (c *waits) SetReadDeadline(d time.Time) error {
	if d.Unix() == 1 {
		defer close(c.past)
	} else {
		select {
		case <-c.past:
		case <-time.After(100 * time.Millisecond):
		}
	}
	return c.Conn.SetReadDeadline(d)
}

// The time that a greeting has does not make up for a caller who has gone.
func TestCancelledGreeting(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	_, err := New(ctx, &waits{server(t, "", nil), make(chan struct{})}, Options{Greeting: time.Minute})
	if !errors.Is(err, context.Canceled) || time.Since(began) > 30*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// Half a greeting is not that of a QEMU that talks with somebody else.
func TestHalfGreeting(t *testing.T) {
	t.Parallel()
	_, err := New(t.Context(), server(t, hello[:40], nil), Options{Greeting: 50 * time.Millisecond})
	if err == nil || errors.Is(err, ErrBusy) {
		t.Error(err)
	}
}
