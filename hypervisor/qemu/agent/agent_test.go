package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// guest is an agent as the real one is: one line after the other, whoever sent it; a stray
// byte before a line costs an error answer; what is frozen stays so.
type guest struct {
	path string

	mu       sync.Mutex // guards the rest
	frozen   bool
	thaws    int
	hang     chan struct{}     // freeze waits for it
	slow     chan struct{}     // what asks for the system waits for it
	polite   bool              // a stray byte is not complained of
	says     map[string]string // commands that are answered with this
	refuse   string            // what freeze says, though it freezes
	leftover string            // said to whoever comes first
	silent   bool
}

func start(t *testing.T, g *guest) *guest {
	t.Helper()
	g.path = filepath.Join(t.TempDir(), "a")
	l, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan []byte, 100)
	var mu sync.Mutex
	var now net.Conn // who gets the answers: whoever is there when they come
	say := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		if now != nil {
			for _, part := range []string{s[:len(s)/2], s[len(s)/2:]} { // in pieces
				_, _ = io.WriteString(now, part)
			}
		}
	}
	go func() {
		for line := range lines {
			g.obey(line, say)
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var half []byte // of a line, from somebody who has gone
		for {
			c, err := l.Accept()
			if err != nil {
				close(lines)
				return
			}
			mu.Lock()
			now = c
			mu.Unlock()
			if g.leftover != "" {
				say(g.leftover)
			}
			r := bufio.NewReader(c)
			for {
				line, err := r.ReadBytes('\n')
				half = append(half, line...)
				if err != nil {
					break
				}
				lines <- half
				half = nil
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		if now != nil {
			_ = now.Close()
		}
		mu.Unlock()
		<-done
	})
	return g
}

func (g *guest) obey(line []byte, say func(string)) {
	g.mu.Lock()
	silent, hang, refuse, slow := g.silent, g.hang, g.refuse, g.slow
	g.mu.Unlock()
	if silent {
		return
	}
	delimited := ""
	if stray := bytes.LastIndexByte(line, 0xff); stray >= 0 {
		if !g.polite {
			say(`{"error": {"class": "GenericError", "desc": "JSON parse error, stray"}}` + "\n")
		}
		line = line[stray+1:]
	}
	var c struct {
		Execute   string
		Arguments struct{ ID int64 }
	}
	if json.Unmarshal(line, &c) != nil {
		say(`{"error": {"class": "GenericError", "desc": "what?"}}` + "\n")
		return
	}
	answer := `{"return": {}}`
	switch c.Execute {
	case "guest-sync-delimited":
		delimited, answer = "\xff", fmt.Sprintf(`{"return": %d}`, c.Arguments.ID)
	case "guest-fsfreeze-freeze":
		if hang != nil {
			<-hang
		}
		g.mu.Lock()
		g.frozen = true
		g.mu.Unlock()
		if answer = `{"return": 2}`; refuse != "" {
			answer = `{"error": {"class": "GenericError", "desc": "` + refuse + `"}}`
		}
	case "guest-fsfreeze-thaw":
		g.mu.Lock()
		if answer = `{"return": 2}`; !g.frozen {
			answer = `{"error": {"class": "GenericError", "desc": "not frozen"}}`
		}
		g.frozen = false
		g.thaws++
		g.mu.Unlock()
	case "guest-fsfreeze-status":
		g.mu.Lock()
		answer = map[bool]string{true: `{"return": "frozen"}`, false: `{"return": "thawed"}`}[g.frozen]
		g.mu.Unlock()
	case "guest-get-osinfo":
		if slow != nil {
			<-slow
		}
		answer = `{"return": {"id": "debian", "name": "Debian"}}`
	}
	if says, ok := g.says[c.Execute]; ok {
		answer = says
	}
	say(delimited + answer + "\n")
}

func (g *guest) isFrozen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.frozen
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestFreezeAndThaw(t *testing.T) {
	for name, leftover := range map[string]string{
		"a quiet line":              "",
		"answers to others":         `{"return": {}}` + "\n" + `{"return": 7}` + "\n",
		"half an answer":            `{"return": {"id": "deb`,
		"an answer to another sync": "\xff" + `{"return": 42}` + "\n",
		"half an answer to a sync":  "\xff" + `{"return": 4`,
		"noise":                     strings.Repeat("\xff\xff x \n", 50),
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, &guest{leftover: leftover})
			c, err := Dial(within(t, 20*time.Second), g.path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if system, err := c.OS(t.Context()); err != nil || system != "debian" {
				t.Errorf("system %q, %v", system, err)
			}
			if n, err := c.Freeze(within(t, 20*time.Second)); err != nil || n != 2 || !g.isFrozen() {
				t.Errorf("%d frozen, %v", n, err)
			}
			for range 2 { // the second finds nothing to thaw, which is as well
				if err := c.Thaw(within(t, 20*time.Second)); err != nil || g.isFrozen() {
					t.Errorf("thaw: %v", err)
				}
			}
		})
	}
}

// TestFreezeThatHangs: who gives up leaves a thaw behind it, and it is carried out when the
// freeze comes true.
func TestFreezeThatHangs(t *testing.T) {
	t.Parallel()
	g := start(t, &guest{hang: make(chan struct{})})
	c, err := Dial(within(t, 20*time.Second), g.path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Freeze(within(t, 50*time.Millisecond)); !errors.Is(err, ErrSilent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("freeze: %v", err)
	}
	if err := c.Thaw(within(t, 50*time.Millisecond)); !errors.Is(err, ErrSilent) {
		t.Errorf("thaw: %v", err)
	}
	if err := c.Abandon(); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	close(g.hang)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		g.mu.Lock()
		thawed := g.thaws > 0 && !g.frozen
		g.mu.Unlock()
		if thawed {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the guest stays frozen")
		}
	}
	again, err := Dial(within(t, 20*time.Second), g.path) // what was answered meanwhile is not for us
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if frozen, err := again.Frozen(within(t, 20*time.Second)); frozen || err != nil {
		t.Errorf("frozen %v, %v", frozen, err)
	}
}

// TestFreezeThatFails leaves file systems frozen all the same, and Thaw sees to that.
func TestFreezeThatFails(t *testing.T) {
	g := start(t, &guest{refuse: "the second of two file systems is busy"})
	c, err := Dial(within(t, 20*time.Second), g.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Freeze(within(t, 20*time.Second)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("freeze: %v", err)
	}
	if err := c.Thaw(within(t, 20*time.Second)); err != nil || g.isFrozen() {
		t.Errorf("thaw: %v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	g := start(t, &guest{silent: true})
	began := time.Now()
	if _, err := Dial(within(t, 50*time.Millisecond), g.path); !errors.Is(err, ErrSilent) || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if _, err := Dial(t.Context(), g.path+"x"); !errors.Is(err, ErrSilent) {
		t.Errorf("no socket: %v", err)
	}
}

// FuzzAgent: whatever the guest says, there is an end of it, and nothing is taken for a
// freeze or a thaw that was not said to be one.
func FuzzAgent(f *testing.F) {
	f.Add([]byte("\xff{\"return\": 1}\n"))
	f.Add([]byte(`{"return": "frozen"}` + "\n"))
	f.Add([]byte{0xff, 0xff, '{', '\n'})
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		go func() {
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			_, _ = theirs.Write(said)
			_ = theirs.Close()
		}()
		c := &Client{conn: ours, r: bufio.NewReaderSize(ours, 4096)}
		defer ours.Close()
		if err := c.sync(within(t, 5*time.Second)); err == nil {
			t.Errorf("%q is taken for the answer to a sync", said)
		}
	})
}
