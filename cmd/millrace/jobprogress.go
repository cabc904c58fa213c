package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/millrace-backup/millrace/cmd/millrace/live"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/events"
)

// jobProgress shows a job while it runs: on a terminal a bar per disk and a line
// per stage that renew themselves, in a pipe one line a minute, with --json a
// status object a second and every fact.
type jobProgress struct {
	a        *app
	terminal bool

	mu    sync.Mutex
	lines int // on the terminal, to be drawn over
	shown time.Duration
}

func (a *app) jobProgress() *jobProgress {
	p := &jobProgress{a: a}
	if f, ok := a.Stderr.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	return p
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
	p.shown = u.Elapsed
	r := u.Report
	switch {
	case p.a.Settings.JSON:
		p.a.PrintJSON(r)
	case p.terminal:
		p.draw(u)
	case u.Waits != "":
		fmt.Fprintf(p.a.Stderr, "waits for the vault: %s\n", u.Waits)
	default:
		fmt.Fprintf(p.a.Stderr, "%s of %s after %s; busy: %s\n", session.Size(r.Done), session.Size(r.Total), u.Elapsed.Round(time.Second), busyWords(r.Stages))
	}
}

func busyWords(stages []board.Stage) string {
	var words []string
	for _, s := range stages {
		words = append(words, fmt.Sprintf("%s %.0f %%", s.Stage, 100*s.Busy))
	}
	return strings.Join(words, ", ")
}

// draw renews the lines on the terminal.
func (p *jobProgress) draw(u conductor.Update) {
	var b strings.Builder
	if p.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.lines)
	}
	p.lines = 0
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, "\r\x1b[K"+format+"\n", args...)
		p.lines++
	}
	bar := func(name string, done, size, stored int64) {
		filled := 30
		if size > 0 {
			filled = int(30 * done / size)
		}
		line("%-24.24s [%s%s] %s of %s, stored %s", name, strings.Repeat("#", filled), strings.Repeat(".", 30-filled), session.Size(done), session.Size(size), session.Size(stored))
	}
	var files, done, size, stored int64 // of exported trees
	for n, d := range u.Progress.Disks {
		came := d.Zero + d.Unchanged + d.Known + d.New
		if u.Work.Disks[n].Info.Carried {
			files, done, size, stored = files+1, done+came, size+d.Size, stored+d.Stored
			continue
		}
		bar(u.Work.Disks[n].Info.Key, came, d.Size, d.Stored)
	}
	if files > 0 {
		bar(fmt.Sprintf("%d files of its tree", files), done, size, stored)
	}
	if u.Waits != "" {
		line("  waits for the vault: %.60s", u.Waits)
	}
	for _, l := range live.Lines(u.Report) {
		line("%s", l)
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
