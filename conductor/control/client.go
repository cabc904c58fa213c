package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/id"
)

// ErrNotRunning: there is such a job, or was, and it does not run (any more) on this
// machine with this state folder.
var ErrNotRunning = errors.New("it is not running")

// ErrVanished: the job's process has ended without a last word.
var ErrVanished = errors.New("its process has ended without a word")

// Running is a job that runs on this machine.
type Running struct {
	Job    id.Job
	folder string
}

// Find finds a running job in a state folder. name is the beginning of its id, or
// latest; with "" it is the only one that runs. catalog.ErrNone: no folder of a job
// has this name, or no job runs at all; catalog.ErrAmbiguous: several; ErrNotRunning;
// fs.ErrPermission: it is another user's.
func Find(ctx context.Context, state, name string) (Running, error) {
	folder := filepath.Join(state, "jobs")
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Running{}, fmt.Errorf("look for jobs: %w", err)
	}
	var live, dead []Running
	for _, e := range entries {
		r := Running{folder: filepath.Join(folder, e.Name())}
		if r.Job.UnmarshalText([]byte(e.Name())) != nil || name != "latest" && !strings.HasPrefix(e.Name(), strings.ToLower(name)) {
			continue
		}
		switch err := r.probe(ctx); {
		case err == nil:
			live = append(live, r)
		case errors.Is(err, fs.ErrPermission) && name != "" && name != "latest":
			return Running{}, fmt.Errorf("job %s is another user's: %w", r.Job, fs.ErrPermission)
		default:
			dead = append(dead, r)
		}
	}
	slices.SortFunc(live, func(a, b Running) int { return strings.Compare(a.Job.String(), b.Job.String()) }) // by when they began
	switch {
	case name == "latest" && len(live) > 0:
		return live[len(live)-1], nil
	case len(live) == 1:
		return live[0], nil
	case len(live) > 1:
		var names []string
		for _, r := range live {
			names = append(names, r.Job.String())
		}
		return Running{}, fmt.Errorf("%w: jobs %s run", catalog.ErrAmbiguous, strings.Join(names, ", "))
	case name == "" || name == "latest":
		return Running{}, fmt.Errorf("%w: no job runs with the state folder %s", ErrNotRunning, state)
	case len(dead) == 1:
		return Running{}, fmt.Errorf("job %s: %w", dead[0].Job, ErrNotRunning)
	}
	return Running{}, fmt.Errorf("%w: no job that begins with %q has run with the state folder %s", catalog.ErrNone, name, state)
}

// probe reports whether somebody answers at the socket.
func (r Running) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := dial(ctx, r.folder)
	if err != nil {
		return err
	}
	return c.Close()
}

// ask sends a request and gives its answers to each until that returns false.
func (r Running) ask(ctx context.Context, q request, each func(*board.Report, *Tuned) bool) error {
	c, err := dial(ctx, r.folder)
	if err != nil {
		return fmt.Errorf("job %s: %w: %w", r.Job, ErrNotRunning, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if len(b) >= maxRequest {
		return fmt.Errorf("ask job %s: %d bytes are more than a request may have", r.Job, len(b))
	}
	if _, err := c.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("ask job %s: %w", r.Job, err)
	}
	in := newAnswers(c)
	for {
		_ = c.SetReadDeadline(time.Now().Add(silence))
		report, tuned, err := in.next()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("job %s has said nothing for %v: is it stopped? %w", r.Job, silence, context.DeadlineExceeded)
		case err == io.EOF, errors.Is(err, net.ErrClosed), reset(err):
			return fmt.Errorf("job %s: %w", r.Job, ErrVanished)
		case err != nil:
			return err
		case !each(report, tuned):
			return nil
		}
	}
}

func reset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// Report is how the job stands now.
func (r Running) Report(ctx context.Context) (out board.Report, err error) {
	err = r.ask(ctx, request{Do: "report"}, func(b *board.Report, _ *Tuned) bool {
		if b != nil {
			out = *b
		}
		return b == nil
	})
	return out, err
}

// Watch gives each the job's reports, about one a second, until each returns false,
// ctx ends, or after the last one, whose Type is "summary". ErrVanished: there was none.
func (r Running) Watch(ctx context.Context, each func(board.Report) bool) error {
	return r.ask(ctx, request{Do: "watch"}, func(b *board.Report, _ *Tuned) bool {
		return b == nil || each(*b) && b.Type != "summary"
	})
}

// Tune gives the job an order. An error that is the job's word is a *flow.Fault.
func (r Running) Tune(ctx context.Context, o Order) (out []Change, err error) {
	err = r.ask(ctx, request{Do: "tune", Stages: o.Stages, By: o.By, Why: o.Why}, func(_ *board.Report, t *Tuned) bool {
		if t != nil {
			out = t.Changes
		}
		return t == nil
	})
	return out, err
}
