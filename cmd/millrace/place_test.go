package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/workload"
)

// place is a vault and what it takes to use it, for tests that run the program
// as a process and do something to it meanwhile.
type place struct {
	*testing.T
	exe   string // the program
	dir   string // images, and what is restored
	vault string
	state string
	as    func(*exec.Cmd) // nil, or what makes the program another user's
}

// newPlace makes a vault in the folder, which may be a mount of its own.
func newPlace(t *testing.T, exe, vault string) *place {
	t.Helper()
	p := &place{T: t, exe: exe, dir: t.TempDir(), vault: vault, state: t.TempDir()}
	if err := os.WriteFile(p.path("password"), []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(0, "init")
	return p
}

// with is the same place in a test of a test.
func (p *place) with(t *testing.T) *place {
	q := *p
	q.T = t
	return &q
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

// image makes a disk of random bytes that no disk of another name has: all of it
// is new to the vault.
func (p *place) image(name string, mib int64) string {
	p.Helper()
	seed := fnv.New64()
	_, _ = seed.Write([]byte(name))
	if err := workload.Random(p.path(name), mib<<20, seed.Sum64()); err != nil {
		p.Fatal(err)
	}
	return p.path(name)
}

// line is a line of what a command prints with --json: the keys of a fault and
// of a summary that scripts rely on.
type line struct {
	Type, Code, Op, Object, Cause, Remedy string

	Kind      string // of a fact
	Outcome   string
	Job       string
	Points    []string
	Done      int64 `json:"done_bytes"` // of a status
	Disk      int64 `json:"disk_bytes"`
	Zero      int64 `json:"zero_bytes"`
	Unchanged int64 `json:"unchanged_bytes"`
	Known     int64 `json:"known_bytes"`
	Read      int64 `json:"read_bytes"`
	New       int64 `json:"new_bytes"`
}

// process is the program while it runs.
type process struct {
	p      *place
	cmd    *exec.Cmd
	out    *bufio.Reader
	lines  []line
	stderr bytes.Buffer
}

// start runs the program with --json. Whatever becomes of the test, the process
// ends within two minutes.
func (p *place) start(args ...string) *process {
	p.Helper()
	r := &process{p: p, cmd: exec.CommandContext(p.Context(), p.exe, append(args, "--json")...)}
	r.cmd.Env = append(os.Environ(), "MILLRACE_VAULT="+p.vault, "MILLRACE_STATE="+p.state, "MILLRACE_PASSWORD_FILE="+p.path("password"))
	r.cmd.Stderr = &r.stderr
	r.cmd.WaitDelay = 5 * time.Second
	own(r.cmd)
	if p.as != nil {
		p.as(r.cmd)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	watch := time.AfterFunc(2*time.Minute, func() { _ = r.cmd.Process.Kill() })
	p.Cleanup(func() { watch.Stop() })
	r.out = bufio.NewReader(out)
	return r
}

// until reads output up to the first line that is wanted. A process that ends
// before it printed one is an error.
func (r *process) until(wanted func(line) bool) {
	r.p.Helper()
	for {
		l, err := r.read()
		if err != nil {
			r.p.Fatalf("%v ended before the line that is waited for: %v\n%s", r.cmd.Args, err, r.stderr.String())
		}
		if wanted(l) {
			return
		}
	}
}

func (r *process) read() (l line, err error) {
	text, err := r.out.ReadBytes('\n')
	if err != nil {
		return l, err
	}
	if text[0] == '{' { // points prints a list
		if err := json.Unmarshal(text, &l); err != nil {
			r.p.Fatalf("%v in %s", err, text)
		}
	}
	r.lines = append(r.lines, l)
	return l, nil
}

// end waits for the process and wants this exit code; its last line is returned.
func (r *process) end(code int) line {
	r.p.Helper()
	for {
		if _, err := r.read(); err != nil {
			break
		}
	}
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.p.Fatalf("%v: %v", r.cmd.Args, err)
	}
	var last line
	if len(r.lines) > 0 {
		last = r.lines[len(r.lines)-1]
	}
	// A job that ends badly says why, and then, last of all, what came of it.
	if last.Type == "summary" && code != 0 && len(r.lines) > 1 {
		last = r.lines[len(r.lines)-2]
	}
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		faults := slices.DeleteFunc(slices.Clone(r.lines), func(l line) bool { return l.Type != "error" })
		r.p.Fatalf("%v: exit code %d, want %d\n%+v\nerrors: %+v\n%s", r.cmd.Args[1:], got, code, last, faults, r.stderr.String())
	}
	return last
}

// guestFault is what was said of the one guest that failed.
func (r *process) guestFault() line {
	r.p.Helper()
	var found []line
	for _, l := range r.lines {
		if l.Type == "error" && l.Code != "part-failed" {
			found = append(found, l)
		}
	}
	if len(found) != 1 {
		r.p.Fatalf("%d guests were said to have failed, want 1: %+v", len(found), found)
	}
	return found[0]
}

func (p *place) run(code int, args ...string) line {
	p.Helper()
	return p.start(args...).end(code)
}

// fault wants an error to be complete: its code, what was being done to what,
// and words in its cause and remedy.
func (p *place) fault(l line, code, op, object, cause, remedy string) {
	p.Helper()
	if l.Type != "error" || l.Code != code || l.Op != op || l.Object != object || !strings.Contains(l.Cause, cause) || !strings.Contains(l.Remedy, remedy) {
		p.Errorf("error %+v\nwant code %q, op %q, object %q, a cause with %q and a remedy with %q", l, code, op, object, cause, remedy)
	}
}

// points wants this many points to be listed, all whole.
func (p *place) points(want int) {
	p.Helper()
	r := p.start("points")
	text, err := io.ReadAll(r.out)
	if err != nil {
		p.Fatal(err)
	}
	r.end(0)
	var got []struct {
		ID      string
		Damaged bool
	}
	if err := json.Unmarshal(text, &got); err != nil || len(got) != want {
		p.Fatalf("points: want %d, got %s (%v)", want, text, err)
	}
	for _, one := range got {
		if one.Damaged {
			p.Errorf("point %s is listed as damaged", one.ID)
		}
	}
}

// wellAgain backs the image up, which must work, and restores it. earlier is how
// many points there were. The summary is returned.
func (p *place) wellAgain(image string, earlier int) line {
	p.Helper()
	p.points(earlier)
	s := p.run(0, "backup", image)
	if s.Type != "summary" || s.Outcome != "done" || len(s.Points) != 1 || s.Zero+s.Unchanged+s.Known+s.New != s.Disk {
		p.Fatalf("the next backup: %+v", s)
	}
	p.points(earlier + 1)
	out := p.path("restored.raw")
	p.run(0, "restore", "latest", "--to", out, "--force")
	same(p.T, image, out)
	return s
}

// same wants two files to have the same bytes.
func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}
