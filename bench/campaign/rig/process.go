package rig

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Line is a line of what a command prints with --json, as far as campaigns care.
type Line struct {
	Type, Code, Op, Object, Cause, Remedy string

	Kind    string // of a fact
	Outcome string
	Job     string
	Point   string
	Points  json.RawMessage
	// Recovery is a recovery key that was made.
	Recovery string `json:"recovery_key"`
	Done     int64  `json:"done_bytes"`  // of a status
	Total    int64  `json:"total_bytes"` // of a status
	Disk     int64  `json:"disk_bytes"`  // of a summary
	Zero     int64  `json:"zero_bytes"`
	Same     int64  `json:"unchanged_bytes"`
	Known    int64  `json:"known_bytes"`
	New      int64  `json:"new_bytes"`
	Stored   int64  `json:"stored_bytes"`
	Damaged  int    `json:"damaged_count"`
	Damages  []struct {
		Object, Chunk, Cause string
	}
	Raw []byte `json:"-"`
}

// Process is the program while it runs.
type Process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	out    io.ReadCloser
	done   chan struct{} // closed when its output has ended

	mu    sync.Mutex
	lines []Line
	bad   error // a line that is no JSON
	seen  func(Line)
}

// Ended is what became of a process.
type Ended struct {
	Exit   int // -1: a signal
	Lines  []Line
	Stderr string
}

// command is the program with a place's settings.
func (p *Place) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, p.Program, append(args, "--json")...)
	c.Env = append(os.Environ(), "MILLRACE_VAULT="+p.Vault, "MILLRACE_STATE="+p.State, "MILLRACE_PASSWORD_FILE="+p.Path("password"))
	c.WaitDelay = 10 * time.Second
	own(c)
	return c
}

// Start starts a command. seen, which may be nil, is called for each line, from
// one goroutine.
func (p *Place) Start(ctx context.Context, seen func(Line), args ...string) (*Process, error) {
	r := &Process{cmd: p.command(ctx, args...), done: make(chan struct{}), seen: seen}
	r.cmd.Stderr = &r.stderr
	var err error
	if r.out, err = r.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %v: %w", args, err)
	}
	go r.read()
	return r, nil
}

func (r *Process) read() {
	defer close(r.done)
	in := bufio.NewReader(r.out)
	for {
		text, err := in.ReadBytes('\n')
		if len(text) > 0 && text[0] == '{' {
			l := Line{Raw: text}
			if bad := json.Unmarshal(text, &l); bad != nil && err == nil {
				r.mu.Lock()
				r.bad = fmt.Errorf("%w in %s", bad, text)
				r.mu.Unlock()
			}
			r.mu.Lock()
			r.lines = append(r.lines, l)
			r.mu.Unlock()
			if r.seen != nil {
				r.seen(l)
			}
		} else if len(text) > 0 {
			r.mu.Lock()
			r.lines = append(r.lines, Line{Type: "other", Raw: text})
			r.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// PID is the process id, and that of its group.
func (r *Process) PID() int { return r.cmd.Process.Pid }

// Kill ends the process at once, on Linux with all that it has started.
func (r *Process) Kill() error {
	if err := r.cmd.Cancel(); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// Over is closed when the process prints no more.
func (r *Process) Over() <-chan struct{} { return r.done }

// Wait waits for the end. The error is about running it at all, not its exit code.
func (r *Process) Wait() (Ended, error) {
	<-r.done
	err := r.cmd.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	e := Ended{Exit: r.cmd.ProcessState.ExitCode(), Lines: r.lines, Stderr: r.stderr.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return e, errors.Join(err, r.bad)
}

// Run runs a command to its end.
func (p *Place) Run(ctx context.Context, args ...string) (Ended, error) {
	r, err := p.Start(ctx, nil, args...)
	if err != nil {
		return Ended{}, err
	}
	return r.Wait()
}

// Must runs a command that has to end with exit code 0.
func (p *Place) Must(ctx context.Context, args ...string) (Ended, error) {
	e, err := p.Run(ctx, args...)
	if err == nil && e.Exit != 0 {
		err = e.Err(args...)
	}
	return e, err
}

// Err says that a process ended as it should not have.
func (e Ended) Err(args ...string) error {
	f := e.Fault()
	return fmt.Errorf("%v: exit code %d: %s %s %s: %s\n%s", args, e.Exit, f.Code, f.Op, f.Object, f.Cause, e.Stderr)
}

// Fault is the last error that was printed, zero if none.
func (e Ended) Fault() Line {
	for i := len(e.Lines) - 1; i >= 0; i-- {
		if e.Lines[i].Type == "error" {
			return e.Lines[i]
		}
	}
	return Line{}
}

// Summary is the line that says what came of a job, zero if there is none.
func (e Ended) Summary() Line {
	for i := len(e.Lines) - 1; i >= 0; i-- {
		if e.Lines[i].Type == "summary" {
			return e.Lines[i]
		}
	}
	return Line{}
}
