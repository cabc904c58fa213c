package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// desk is a job that takes every order but those for the indexer.
type desk struct {
	mu     sync.Mutex
	orders []Order
}

func (d *desk) Report() board.Report {
	return board.Report{Type: "status", Phase: board.Running, Stages: []board.Stage{{Stage: "seal", Workers: 2}}}
}

func (d *desk) Tune(o Order) ([]Change, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := o.Stages["indexer"]; ok {
		return nil, &flow.Fault{Code: "usage", Op: "tune job", Object: "x", Cause: "one journal", Remedy: "leave it"}
	}
	d.orders = append(d.orders, o)
	return []Change{{"seal", 2, o.Stages["seal"]}}, nil
}

// serve makes a running job in a state folder.
func serve(t *testing.T, state string, job id.Job) (*Server, *desk) {
	t.Helper()
	folder := filepath.Join(state, "jobs", job.String())
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &desk{}
	s, err := Listen(folder, job, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(board.Report{Type: "summary", Outcome: "done"}) })
	return s, d
}

// Also from a folder whose path is longer than a socket's may be.
func TestOrdersAndReports(t *testing.T) {
	for _, more := range []string{"", strings.Repeat("long/", 30)} {
		state := filepath.Join(t.TempDir(), more)
		job := id.NewJob()
		s, d := serve(t, state, job)
		r, err := Find(t.Context(), state, job.String()[:20])
		if err != nil || r.Job != job {
			t.Fatalf("%v, %v", r, err)
		}
		got, err := r.Tune(t.Context(), Order{Stages: map[string]int{"seal": 5}, Why: "more", By: "somebody else"})
		if err != nil || len(got) != 1 || got[0] != (Change{"seal", 2, 5}) {
			t.Errorf("%v, %v", got, err)
		}
		if me, err := user.Current(); err == nil && (len(d.orders) != 1 || d.orders[0].By != me.Username || d.orders[0].Why != "more") {
			t.Errorf("the job was told %+v, by %s", d.orders, me.Username)
		}
		var f *flow.Fault
		if _, err := r.Tune(t.Context(), Order{Stages: map[string]int{"indexer": 5}}); !errors.As(err, &f) || f.Cause != "one journal" || f.Remedy != "leave it" {
			t.Errorf("a refusal: %v", err)
		}
		if rep, err := r.Report(t.Context()); err != nil || rep.Stages[0].Workers != 2 {
			t.Errorf("%+v, %v", rep, err)
		}
		var seen []string
		err = r.Watch(t.Context(), func(rep board.Report) bool {
			seen = append(seen, rep.Type+rep.Phase+rep.Outcome)
			switch len(seen) {
			case 1:
				s.Publish(board.Report{Type: "status", Phase: board.Ending})
			case 2:
				go s.Close(board.Report{Type: "summary", Outcome: "part"})
			}
			return true
		})
		if want := "statusrunning statusending summarypart"; err != nil || strings.Join(seen, " ") != want {
			t.Errorf("watched %v, %v", seen, err)
		}
		if _, err := Find(t.Context(), state, "latest"); !errors.Is(err, ErrNotRunning) {
			t.Errorf("after its end: %v", err)
		}
	}
}

func TestFind(t *testing.T) {
	state := t.TempDir()
	if _, err := Find(t.Context(), state, ""); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no job ever: %v", err)
	}
	older, newer, dead := id.Job{1, 2}, id.Job{1, 3}, id.Job{9}
	serve(t, state, newer)
	serve(t, state, older)
	// A killed job leaves its socket; others leave what they like.
	l, err := listen(mkdir(t, state, dead.String()))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	mkdir(t, state, "01")
	mkdir(t, state, "lost+found")
	for name, want := range map[string]any{
		"latest": newer, "0102": older, older.String(): older, strings.ToUpper(newer.String()): newer,
		"": catalog.ErrAmbiguous, "01": catalog.ErrAmbiguous, "09": ErrNotRunning, "77": catalog.ErrNone, "lost": catalog.ErrNone,
	} {
		got, err := Find(t.Context(), state, name)
		if wanted, fails := want.(error); fails && !errors.Is(err, wanted) || !fails && (err != nil || got.Job != want) {
			t.Errorf("%q: %v, %v", name, got.Job, err)
		}
	}
}

func mkdir(t *testing.T, state, name string) string {
	t.Helper()
	folder := filepath.Join(state, "jobs", name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	return folder
}

// Only the owner has a way in.
func TestTheSocketIsTheOwners(t *testing.T) {
	state := t.TempDir()
	job := id.NewJob()
	serve(t, state, job)
	info, err := os.Stat(filepath.Join(state, "jobs", job.String(), SocketName))
	if err != nil {
		t.Fatal(err)
	}
	if os.PathSeparator == '/' && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if os.Geteuid() == 0 || os.PathSeparator != '/' {
		t.Skip("root may enter every folder")
	}
	if err := os.Chmod(filepath.Join(state, "jobs", job.String()), 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(state, "jobs", job.String()), 0o700)
	if _, err := Find(t.Context(), state, job.String()); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("another's job: %v", err)
	}
}

// What is no request is answered and dropped; who says nothing, or more than a line,
// or comes in masses holds nobody up.
func TestHostileClients(t *testing.T) {
	state := t.TempDir()
	job := id.NewJob()
	_, d := serve(t, state, job)
	folder := filepath.Join(state, "jobs", job.String())
	for _, line := range []string{"{}\n", "hello\n", "\n", `{"do":"stop"}` + "\n", `{"do":"tune"}` + "\n", `{"do":"report","stages":{"seal":1}}` + "\n",
		`{"do":"tune","stages":{"seal":1},"why":"` + strings.Repeat("x", 600) + `"}` + "\n", strings.Repeat("[", 5000), `{"do":"tune","stages":{"seal":1e99}}` + "\n"} {
		c, err := dial(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(line))
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		answer, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && !strings.Contains(answer, `"code":"usage"`) { // one that writes too much may see the line cut
			t.Errorf("%.40q: %q, %v", line, answer, err)
		}
		c.Close()
	}
	if len(d.orders) > 0 {
		t.Errorf("orders were taken: %+v", d.orders)
	}
	var idle []net.Conn
	for range 2 * maxConns { // more are turned away, and those that are in are thrown out after a while
		if c, err := dial(t.Context(), folder); err == nil {
			idle = append(idle, c)
		}
	}
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	r := Running{job, folder}
	for {
		if _, err := r.Report(ctx); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatalf("nobody is let in any more: %v", err)
		}
	}
}

// A job that dies while it is watched is no job that ended well.
func TestVanished(t *testing.T) {
	state := t.TempDir()
	job := id.NewJob()
	l, err := listen(mkdir(t, state, job.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = bufio.NewReader(c).ReadString('\n')
		fmt.Fprintln(c, `{"type":"status"}`)
		c.Close()
	}()
	n := 0
	err = Running{job, filepath.Join(state, "jobs", job.String())}.Watch(t.Context(), func(board.Report) bool { n++; return true })
	if !errors.Is(err, ErrVanished) || n != 1 {
		t.Errorf("%d reports, %v", n, err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"do":"tune","stages":{"seal":3},"why":"x","by":"y"}` + "\n"))
	f.Add([]byte(`{"do":"watch"}` + "\nmore"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := readRequest(strings.NewReader(string(b)))
		if err == nil && ((q.Do == "tune") != (len(q.Stages) > 0) || len(q.Why) > maxWords) {
			t.Errorf("%+v", q)
		}
		if err != nil && !errors.Is(err, errRequest) {
			t.Error(err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"type":"status","stages":[{"stage":"seal"}]}` + "\n" + `{"type":"tuned","changes":[{"stage":"seal"}]}` + "\n" + `{"type":"error","code":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := newAnswers(strings.NewReader(string(b)))
		for range 100 {
			r, tuned, err := in.next()
			if err != nil {
				return
			}
			if (r == nil) == (tuned == nil) {
				t.Error("an answer is a report or the word on an order")
			}
		}
	})
}
