package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/conductor/control"
	"github.com/millrace-backup/millrace/id"
)

// Top is the command top.
func Top(a *session.App) *cobra.Command {
	once := false
	c := &cobra.Command{
		Use:   "top [JOB]",
		Short: "Watch the stages of a running job",
		Long: `Watch the stages of a running job: how their workers spend their time, what goes in
and out, what waits for them, how full the arena is, and which stage the others wait
for. Figures are those of the last second; when the job ends, those of all of it.

A stage is busy while it works, starved while nothing comes in, blocked while there is
no room for what goes out. The bottleneck (>) is the stage that is busy most of its
time: see millrace tune.

JOB is the beginning of a job's id, or latest; it may be left out while one job runs
with this state folder. Ctrl-C ends the watching, not the job. The exit code is that
of the job, if it ended meanwhile.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return top(c.Context(), a, strings.Join(args, ""), once)
		},
	}
	c.Flags().BoolVar(&once, "once", false, "print how the job stands now, and end")
	return c
}

func top(ctx context.Context, a *session.App, name string, once bool) error {
	job, err := find(ctx, a, name)
	if err != nil {
		return err
	}
	show := screenOf(a)
	if once {
		r, err := job.Report(ctx)
		if err == nil {
			show.print(r)
		}
		return fault.At("watch job", job.Job.String(), fault.FromFlow(err))
	}
	var last board.Report
	err = job.Watch(ctx, func(r board.Report) bool {
		last = r
		show.print(r)
		return true
	})
	if ctx.Err() != nil {
		return nil // the user has seen enough
	}
	if err != nil {
		return fault.At("watch job", job.Job.String(), fault.FromFlow(err))
	}
	return outcome(a, last)
}

// find finds the job that a user means.
func find(ctx context.Context, a *session.App, name string) (control.Running, error) {
	job, err := control.Find(ctx, a.Settings.State, name)
	if err != nil {
		object := name
		if object == "" {
			object = "that runs"
		}
		return job, fault.At("find job", object, err)
	}
	return job, nil
}

// outcome is what the command ends with when the job did.
func outcome(a *session.App, r board.Report) error {
	if !a.Settings.JSON {
		fmt.Fprintf(a.Stdout, "job %s  %s after %s%s\n", r.Job, r.Outcome, elapsed(r.Elapsed), because(r.Cause))
	}
	code := map[string]string{"done": "", "part": "part-failed", "busy": "guest-busy", "interrupted": "interrupted"}
	c, known := code[r.Outcome]
	if !known {
		c = "failed"
	}
	if c == "" {
		return nil
	}
	return &fault.Fault{Code: c, Op: "watch job", Object: id.Short(r.Job), Err: errors.New(r.Cause), Reported: true}
}

func because(cause string) string {
	if cause == "" {
		return ""
	}
	return ": " + session.Plain(cause)
}

// screen is where reports are shown.
type screen struct {
	app      *session.App
	out      io.Writer
	terminal bool
	size     func() (width, height int)
	lines    int // of the last frame, to be drawn over
	frames   int
}

func screenOf(a *session.App) *screen {
	s := &screen{app: a, out: a.Stdout, size: func() (int, int) { return 0, 0 }}
	if f, ok := a.Stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.terminal = true
		s.size = func() (int, int) {
			w, h, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 0, 0
			}
			return w, h
		}
	}
	return s
}

// print shows a report: with --json as a line, on a terminal over the one before,
// else below it. On a terminal lines are cut at its width and the frame at its
// height, else the next one could not be drawn over it.
func (s *screen) print(r board.Report) {
	if s.app.Settings.JSON {
		s.app.PrintJSON(r)
		return
	}
	lines := frame(r)
	var b strings.Builder
	if !s.terminal {
		if s.frames++; s.frames > 1 {
			b.WriteString("\n")
		}
		b.WriteString(strings.Join(lines, "\n") + "\n")
		_, _ = io.WriteString(s.out, b.String())
		return
	}
	width, height := s.size()
	if height > 1 && len(lines) > height-1 {
		lines = lines[:height-1]
	}
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.lines)
	}
	for _, l := range lines {
		if runes := []rune(l); width > 0 && len(runes) > width {
			l = string(runes[:width])
		}
		fmt.Fprintf(&b, "\r\x1b[K%s\n", l)
	}
	b.WriteString("\x1b[J") // what a longer frame has left below
	s.lines = len(lines)
	_, _ = io.WriteString(s.out, b.String())
}
