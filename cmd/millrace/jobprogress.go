package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
)

// jobProgress shows a job while it runs: on a terminal a bar per disk and a line
// per stage that renew themselves, in a pipe one line a minute, with --json a
// status object a second and every fact.
type jobProgress struct {
	a        *app
	terminal bool

	mu    sync.Mutex
	lines int // on the terminal, to be drawn over
	last  conductor.Update
	shown time.Duration
}

func (a *app) jobProgress() *jobProgress {
	p := &jobProgress{a: a}
	if f, ok := a.Stderr.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	return p
}

// statusLine is a line of backup --json while the job runs.
type statusLine struct {
	Type    string        `json:"type"`
	Job     string        `json:"job"`
	Elapsed float64       `json:"elapsed_s"`
	Done    int64         `json:"done_bytes"`
	Total   int64         `json:"total_bytes"`
	Stages  []stageStatus `json:"stages"`
	Waits   string        `json:"waits,omitempty"` // for what, while the vault is away
}

type stageStatus struct {
	Stage   string  `json:"stage"`
	Workers int     `json:"workers"`
	Busy    float64 `json:"busy"` // share of its workers' time since the last line
	Rate    float64 `json:"bytes_per_s"`
	Queue   uint64  `json:"queue"`
}

func (p *jobProgress) update(u conductor.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	every := time.Minute
	switch {
	case p.a.Settings.JSON:
		every = time.Second
	case p.a.Settings.Quiet:
		return
	case p.terminal:
		every = 0
	}
	if u.Elapsed-p.shown < every {
		return
	}
	stages := rates(p.last, u)
	p.last, p.shown = u, u.Elapsed
	done, total := doneBytes(u)
	switch {
	case p.a.Settings.JSON:
		p.a.PrintJSON(statusLine{Type: "status", Job: u.Job.String(), Elapsed: u.Elapsed.Seconds(), Done: done, Total: total, Stages: stages, Waits: u.Waits})
	case p.terminal:
		p.draw(u, stages)
	case u.Waits != "":
		fmt.Fprintf(p.a.Stderr, "waits for the vault: %s\n", u.Waits)
	default:
		fmt.Fprintf(p.a.Stderr, "%s of %s after %s; busy: %s\n", session.Size(done), session.Size(total), u.Elapsed.Round(time.Second), busyWords(stages))
	}
}

func doneBytes(u conductor.Update) (done, total int64) {
	for _, d := range u.Progress.Disks {
		total += d.Size
		done += d.Zero + d.Unchanged + d.Known + d.New
	}
	return done, total
}

// rates is what the stages did between two updates.
func rates(last, now conductor.Update) (out []stageStatus) {
	for n, s := range now.Stages {
		x := stageStatus{Stage: s.Stage, Workers: s.Workers, Queue: s.Queue}
		var before flow.Status
		if n < len(last.Stages) {
			before = last.Stages[n].Status
		}
		if spent := s.BusyNS + s.StarvedNS + s.BlockedNS - before.BusyNS - before.StarvedNS - before.BlockedNS; spent > 0 {
			x.Busy = float64(s.BusyNS-before.BusyNS) / float64(spent)
		}
		if t := (now.Elapsed - last.Elapsed).Seconds(); t > 0 {
			x.Rate = float64(max(s.InBytes, s.OutBytes)-max(before.InBytes, before.OutBytes)) / t
		}
		out = append(out, x)
	}
	return out
}

func busyWords(stages []stageStatus) string {
	var words []string
	for _, s := range stages {
		words = append(words, fmt.Sprintf("%s %.0f %%", s.Stage, 100*s.Busy))
	}
	return strings.Join(words, ", ")
}

// draw renews the lines on the terminal.
func (p *jobProgress) draw(u conductor.Update, stages []stageStatus) {
	var b strings.Builder
	if p.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.lines)
	}
	p.lines = 0
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, "\r\x1b[K"+format+"\n", args...)
		p.lines++
	}
	for n, d := range u.Progress.Disks {
		done := d.Zero + d.Unchanged + d.Known + d.New
		filled := 30
		if d.Size > 0 {
			filled = int(30 * done / d.Size)
		}
		line("%-24.24s [%s%s] %s of %s, stored %s", u.Work.Disks[n].Info.Key, strings.Repeat("#", filled), strings.Repeat(".", 30-filled), session.Size(done), session.Size(d.Size), session.Size(d.Stored))
	}
	if u.Waits != "" {
		line("  waits for the vault: %.60s", u.Waits)
	}
	for _, s := range stages {
		line("  %-9s x%-2d busy %3.0f %%  %10s/s  queue %d", s.Stage, s.Workers, 100*s.Busy, session.Size(int64(s.Rate)), s.Queue)
	}
	_, _ = io.WriteString(p.a.Stderr, b.String())
}

// factLine is a fact as it enters the ledger, in backup --json.
type factLine struct {
	Type     string      `json:"type"`
	Position uint64      `json:"position"`
	Time     time.Time   `json:"time"`
	Kind     string      `json:"kind"`
	Fact     events.Fact `json:"fact"`
}

func (p *jobProgress) fact(r events.Record) {
	if !p.a.Settings.JSON {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.a.PrintJSON(factLine{Type: "fact", Position: r.Position, Time: r.Time, Kind: r.Kind, Fact: r.Fact})
}

// done ends the display; what it showed last stays.
func (p *jobProgress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = 0
}
