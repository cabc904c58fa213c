package live

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/id"
)

// frame is a report as lines for a terminal.
func frame(r board.Report) []string {
	var out []string
	line := func(format string, args ...any) { out = append(out, session.Plain(fmt.Sprintf(format, args...))) }
	line("job %s  %s  %s  on %s, pid %d", id.Short(r.Job), state(r), elapsed(r.Elapsed), r.Host, r.PID)
	var guests []string
	for _, g := range r.Guests {
		name := g.Name
		switch {
		case g.Failed:
			name += " (failed)"
		case g.Point != "":
			name += " (done)"
		}
		guests = append(guests, name)
	}
	if len(guests) > 8 {
		guests = append(guests[:8], fmt.Sprintf("and %d more", len(guests)-8))
	}
	line("guests  %s", strings.Join(guests, ", "))
	line("disks   %s of %s (%d %%) = zero %s + unchanged %s + known %s + new %s", session.Size(r.Done), session.Size(r.Total), percent(float64(r.Done)/float64(max(r.Total, 1))),
		session.Size(r.Zero), session.Size(r.Unchanged), session.Size(r.Known), session.Size(r.New))
	line("stored  %s", session.Size(r.Stored))
	if r.Waits != "" {
		line("WAITS FOR THE VAULT: %s", r.Waits)
	}
	if len(r.Stages) == 0 {
		return out
	}
	line("")
	for _, l := range Lines(r) {
		line("%s", l)
	}
	for _, p := range r.Arena {
		line("  arena %-6s [%s] %d of %d slots, %s", p.Pool, bar(p.Used(), p.Used()+p.Free), p.Used(), p.Used()+p.Free, session.Size(int64(p.Used())*p.SlotSize))
	}
	if r.Scalings > 0 {
		line("  tuned %d times", r.Scalings)
	}
	return out
}

// Lines is the table of a report's stages in the order of the flow: shares of their
// workers' time, processors, and what went in and out, over the report's interval.
func Lines(r board.Report) []string {
	out := []string{"  STAGE     WORKERS BUSY STARVED BLOCKED  CPU  IN MiB/s OUT MiB/s QUEUE RESTARTS"}
	for _, s := range r.Stages {
		mark, notes := " ", ""
		if s.Stage == r.Bottleneck {
			mark, notes = ">", "  bottleneck"
		}
		if l := r.Limits[s.Stage]; l > 0 {
			notes += fmt.Sprintf("  limit %s/s", session.Size(l))
		}
		if s.Leaving > 0 {
			notes += fmt.Sprintf("  %d leaving", s.Leaving)
		}
		if s.Elsewhere > 0 {
			notes += fmt.Sprintf("  %d elsewhere", s.Elsewhere)
		}
		out = append(out, fmt.Sprintf("%s %-9s %7d %3d%% %6d%% %6d%% %4.2f %9.1f %9.1f %5d %8d%s", mark, s.Stage, s.Workers,
			percent(s.Busy), percent(s.Starved), percent(s.Blocked), s.CPU, s.InRate/(1<<20), s.OutRate/(1<<20), s.Queue, s.Restarts, notes))
	}
	return out
}

func state(r board.Report) string {
	if r.Outcome != "" {
		return strings.ToUpper(r.Outcome)
	}
	return r.Phase
}

func percent(share float64) int { return int(share*100 + 0.5) }

func elapsed(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
}

// bar is a share as a picture of 24 letters; what is not nothing shows.
func bar(used, all int) string {
	const width = 24
	n := 0
	if all > 0 {
		n = min(width, (used*width+all-1)/all)
	}
	return strings.Repeat("#", n) + strings.Repeat(".", width-n)
}
