package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\n"

// server is the other end of a connection: it greets, and answers each command with what
// answer makes of it.
func server(t testing.TB, greeting string, answer func(command, id string) string) net.Conn {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	go func() {
		if _, err := io.WriteString(theirs, greeting); err != nil {
			return
		}
		for lines := bufio.NewScanner(theirs); lines.Scan(); {
			var c struct{ Execute, ID string }
			if json.Unmarshal(lines.Bytes(), &c) != nil {
				return
			}
			said := fmt.Sprintf(`{"return": {}, "id": %q}`+"\n", c.ID)
			if c.Execute != "qmp_capabilities" {
				said = answer(c.Execute, c.ID)
			}
			if said == "hang up" {
				_ = theirs.Close()
				return
			}
			if _, err := io.WriteString(theirs, said); err != nil {
				return
			}
		}
	}()
	return ours
}

func TestAnswers(t *testing.T) {
	var mu sync.Mutex
	var events []string
	c, err := New(t.Context(), server(t, hello, func(command, id string) string {
		event := `{"event": "STOP", "timestamp": {}}` + "\n"
		switch command {
		case "refuse":
			return event + fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no such thing"}, "id": %q}`+"\n", id)
		case "other":
			return `{"return": 5, "id": "999"}` + "\n" + fmt.Sprintf(`{"return": 6, "id": %q}`+"\n", id) // somebody else's comes first
		}
		return event + fmt.Sprintf(`{"return": {"status": %q}, "id": %q}`+"\n", command, id)
	}), Options{Event: func(e Event) { mu.Lock(); events = append(events, e.Name); mu.Unlock() }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Version.String() != "7.2.22" || !c.Version.AtLeast(7, 1) || c.Version.AtLeast(7, 3) || c.Version.AtLeast(8, 0) {
		t.Errorf("version %v", c.Version)
	}
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			var out struct{ Status string }
			name := fmt.Sprint("command", n)
			if err := c.Do(t.Context(), name, map[string]int{"n": n}, &out); err != nil || out.Status != name {
				t.Errorf("%s: %+v, %v", name, out, err)
			}
		})
	}
	all.Wait()
	var refused *Error
	if err := c.Do(t.Context(), "refuse", nil, nil); !errors.As(err, &refused) || refused.Class != "GenericError" || !strings.Contains(err.Error(), "refuse: no such thing") {
		t.Errorf("%v", err)
	}
	var n int
	if err := c.Do(t.Context(), "other", nil, &n); err != nil || n != 6 {
		t.Errorf("%d, %v", n, err)
	}
	if err := c.Do(t.Context(), "other", nil, &events); err == nil {
		t.Error("a number was read as a list")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(events) != 21 {
		t.Errorf("%d events", len(events))
	}
}

// TestBrokenAnswers: each ends the connection, with a reason, for this call and all later.
func TestBrokenAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"hang up": "hang up", "garbage": "garbage\n", "no id": `{"return": {}}` + "\n", "nothing said": `{"id": "2"}` + "\n", "no error": `{"id": "2", "error": null}` + "\n",
		"all at once": `{"id": "2", "error": {}, "return": {}}` + "\n", "an id that is a number": `{"id": 2, "return": {}}` + "\n", "a list": "[]\n",
		"half a line": `{"return": `, "nothing": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := New(t.Context(), server(t, hello, func(string, string) string { return answer }), Options{Command: 100 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for range 2 {
				if err := c.Do(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
					t.Errorf("%v", err)
				}
			}
			select {
			case <-c.Done():
			default:
				t.Error("it is not over")
			}
		})
	}
}

func TestLongLine(t *testing.T) {
	t.Parallel()
	c, err := New(t.Context(), server(t, hello, func(string, string) string { return strings.Repeat("x", MaxLine+1<<20) }), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Do(t.Context(), "query-block", nil, nil); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
}

func TestGreetings(t *testing.T) {
	for greeting, want := range map[string]error{"": ErrBusy, "SSH-2.0\n": nil, "{}\n": nil, `{"return": {}}` + "\n": nil} {
		c, err := New(t.Context(), server(t, greeting, nil), Options{Greeting: 50 * time.Millisecond})
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%q: %v, %v", greeting, c, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(ctx, server(t, "", nil), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestCancelled: what became of the command is not known, so the connection is over.
func TestCancelled(t *testing.T) {
	c, err := New(t.Context(), server(t, hello, func(string, string) string { return "" }), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, "stop", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := c.Do(t.Context(), "cont", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := New(t.Context(), server(t, hello, func(string, string) string { return "" }), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Send(t.Context(), f, "add-fd", nil, nil); err == nil {
		t.Errorf("a file went through a pipe: %v", err)
	}
	_ = d.Close()
}

// FuzzAnswers: whatever comes, calls end, and with an error unless it was an answer.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"return": {}, "id": "2"}` + "\n"))
	f.Add([]byte(`{"error": {"class": "", "desc": ""}, "id": "2"}` + "\n"))
	f.Add([]byte(`{"event": "X"}` + "\n" + `{"id": null}` + "\n"))
	f.Add([]byte("[]\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		first := true
		c, err := New(t.Context(), server(t, hello, func(string, string) string {
			if first {
				first = false
				return string(said)
			}
			return "hang up"
		}), Options{Command: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var out any
		if err := c.Do(t.Context(), "query-status", nil, &out); err == nil && !strings.Contains(string(said), `"2"`) && !strings.Contains(string(said), `\u0032`) {
			t.Errorf("%q is an answer: %v", said, out)
		}
	})
}
