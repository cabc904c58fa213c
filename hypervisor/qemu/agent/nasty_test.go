package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain looks whether a test, of all those with guests that do wrong, has left a goroutine
// of a client behind.
func TestMain(m *testing.M) {
	code := m.Run()
	stacks := make([]byte, 1<<20)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(left, "agent.(*Client)") {
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

func dialGuest(t *testing.T, g *guest) *Client {
	t.Helper()
	c, err := Dial(within(t, 20*time.Second), start(t, g).path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// An answer that came too late is not taken for one to the question after.
func TestLateAnswer(t *testing.T) {
	g := &guest{slow: make(chan struct{})}
	c := dialGuest(t, g)
	if _, err := c.OS(within(t, 50*time.Millisecond)); !errors.Is(err, ErrSilent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("system: %v", err)
	}
	close(g.slow)
	if n, err := c.Freeze(within(t, 20*time.Second)); err != nil || n != 2 {
		t.Errorf("%d frozen, %v", n, err)
	}
	if frozen, err := c.Frozen(within(t, 20*time.Second)); err != nil || !frozen {
		t.Errorf("frozen %v, %v", frozen, err)
	}
	if err := c.Thaw(within(t, 20*time.Second)); err != nil {
		t.Errorf("thaw: %v", err)
	}
}

// tardy sets a deadline that is past when the one after it is set, if that comes soon. A
// read has failed by then.
type tardy struct {
	net.Conn
	late, next, done chan struct{}
}

func (c *tardy) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		<-c.late
	}
	return n, err
}

func (c *tardy) SetDeadline(d time.Time) error {
	if d.Unix() == 1 {
		defer close(c.done)
		close(c.late)
		select {
		case <-c.next:
		case <-time.After(100 * time.Millisecond):
		}
		return c.Conn.SetDeadline(d)
	}
	err := c.Conn.SetDeadline(d)
	select {
	case c.next <- struct{}{}:
		<-c.done
	default:
	}
	return err
}

// The end of the time of one call, however late it is heard of, does not end the next:
// that is the thaw after a freeze.
func TestLateDeadline(t *testing.T) {
	t.Parallel()
	g := &guest{hang: make(chan struct{})}
	c := dialGuest(t, g)
	c.conn = &tardy{Conn: c.conn, late: make(chan struct{}), next: make(chan struct{}), done: make(chan struct{})}
	c.r.Reset(c.conn)
	if _, err := c.Freeze(within(t, 30*time.Millisecond)); !errors.Is(err, ErrSilent) {
		t.Errorf("freeze: %v", err)
	}
	close(g.hang)
	if err := c.Thaw(within(t, 20*time.Second)); err != nil || g.isFrozen() {
		t.Errorf("thaw: %v", err)
	}
}

// What is no answer is a refusal, and nothing is taken for frozen or thawed by it.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"nothing": `{}`, "null": `{"return": null}`, "a list": `[]`, "words": `freezing`, "an object": `{"return": {}}`, "a number below 0": `{"return": -1}`,
		"an error of nothing": `{"error": {}}`, "empty": "", "for a terminal": `{"error": {"desc": "\u001b[2J"}}`, "a long word": `{"return": "` + strings.Repeat("x", 1000) + `"}`,
		"a long error": `{"error": {"desc": "` + strings.Repeat("y", MaxLine/2) + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			g := &guest{says: map[string]string{"guest-fsfreeze-freeze": answer, "guest-fsfreeze-status": answer}}
			c := dialGuest(t, g)
			_, freeze := c.Freeze(within(t, 20*time.Second))
			_, status := c.Frozen(within(t, 20*time.Second))
			thaw := c.Thaw(within(t, 20*time.Second))
			for _, err := range []error{freeze, status, thaw} {
				if !errors.Is(err, ErrRefused) || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\x1b") {
					t.Errorf("%.1000v", err)
				}
			}
			if g.isFrozen() {
				t.Error("it was not asked to thaw")
			}
		})
	}
	c := dialGuest(t, &guest{says: map[string]string{"guest-get-osinfo": strings.Repeat("z", MaxLine)}})
	if _, err := c.OS(within(t, 20*time.Second)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an endless answer: %.1000v", err)
	}
}

// Who was cut off in the middle of a line spoils nothing.
func TestHalfRequest(t *testing.T) {
	for _, polite := range []bool{false, true} {
		g := start(t, &guest{polite: polite, leftover: "\xff{\"return\": 4"})
		first, err := net.Dial("unix", g.path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = first.Write([]byte(`{"execute": "guest-fsfreeze-fr`))
		if err := errors.Join(err, first.Close()); err != nil {
			t.Fatal(err)
		}
		c, err := Dial(within(t, 20*time.Second), g.path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Freeze(within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
		if _, err := c.conn.Write([]byte(`{"execute": "guest-sy`)); err != nil {
			t.Error(err)
		}
		if err := errors.Join(c.Abandon(), c.Close()); err != nil {
			t.Error(err)
		}
		for end := time.Now().Add(20 * time.Second); g.isFrozen(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the guest stays frozen")
			}
		}
	}
}

// Who talks without end is not listened to without end, even where there is no hurry.
func TestEndlessTalk(t *testing.T) {
	t.Parallel()
	for name, talk := range map[string]string{
		"of others":           strings.Repeat(`{"return": {}}`+"\n", 5000),
		"without a line":      strings.Repeat("x", 64<<10),
		"answers to syncs":    strings.Repeat("\xff"+`{"return": 5}`+strings.Repeat(" ", 200)+"\n", 500),
		"nothing but markers": strings.Repeat("\xff", 64<<10),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				conn, err := l.Accept()
				for err == nil {
					_, err = conn.Write([]byte(talk))
				}
			}()
			if _, err := Dial(t.Context(), path); !errors.Is(err, ErrSilent) {
				t.Error(err)
			}
			<-gone
		})
	}
}
