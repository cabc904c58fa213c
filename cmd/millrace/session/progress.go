package session

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// Progress tells a person on stderr how far a piece of work is: a line that
// renews itself on a terminal, one line a minute in a pipe, nothing with --quiet
// or --json. Safe for many goroutines.
type Progress struct {
	out      io.Writer // nil: say nothing
	what     string
	now      func() time.Time
	every    time.Duration
	terminal bool

	mu    sync.Mutex
	start time.Time
	last  time.Time
}

// Progress begins to tell about some work.
func (a *App) Progress(what string) *Progress {
	p := &Progress{what: what, now: a.Now, every: time.Minute, start: a.Now()}
	p.last = p.start
	if !a.Settings.Quiet && !a.Settings.JSON {
		p.out = a.Stderr
	}
	if f, ok := a.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.terminal, p.every = true, 200*time.Millisecond
	}
	return p
}

// At says that done of total bytes are dealt with.
func (p *Progress) At(done, total int64) {
	if p.out == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	percent := int64(100)
	if total > 0 {
		percent = done * 100 / total
	}
	seconds := max(now.Sub(p.start).Seconds(), 0.001)
	line := fmt.Sprintf("%s: %d %%, %s of %s, %s/s", p.what, percent, Size(done), Size(total), Size(int64(float64(done)/seconds)))
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(p.out, line)
}

// Done ends the line that renews itself.
func (p *Progress) Done() {
	if p.out != nil && p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// Size writes a number of bytes as people read it.
func Size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 && n > -1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for ; (value >= 1023.95 || value <= -1023.95) && unit < len(units)-1; unit++ {
		value /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
