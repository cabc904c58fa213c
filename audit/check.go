package audit

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/events"
)

// AddsUp reports whether the bytes by kind are exactly the disk's size.
func AddsUp(f events.DiskSealed) bool {
	return f.ZeroBytes+f.UnchangedBytes+f.KnownBytes+f.NewBytes == f.Size
}

// check looks for facts that contradict each other.
func (a *Account) check() (found []string) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if a.Started.Verb == "" {
		say("the job has facts but none that says it began")
	}
	for _, g := range a.Guests {
		for _, d := range g.Disks {
			d.check(func(format string, args ...any) {
				say("disk %s of %s: "+format, append([]any{d.Key(), g.Name}, args...)...)
			})
		}
		g.check(say)
	}
	if a.Finished != nil {
		a.checkEnd(say)
	}
	return found
}

func (d *Disk) check(say func(string, ...any)) {
	f := d.Sealed
	if f == nil {
		return
	}
	if !AddsUp(*f) {
		sum := f.ZeroBytes + f.UnchangedBytes + f.KnownBytes + f.NewBytes
		say("bytes do not add up: zero %d + unchanged %d + known %d + new %d = %d, but the disk has %d, a difference of %d",
			f.ZeroBytes, f.UnchangedBytes, f.KnownBytes, f.NewBytes, sum, f.Size, sum-f.Size)
	}
	if p := d.Plan; p == nil {
		say("sealed without a plan of what to read")
	} else if p.Parcels != f.Parcels || p.DiskBytes != f.Size {
		say("planned %d parcels of %d bytes, sealed %d of %d", p.Parcels, p.DiskBytes, f.Parcels, f.Size)
	}
}

func (g *Guest) check(say func(string, ...any)) {
	if g.Point == nil {
		if g.Result != nil && g.Result.Outcome == "done" {
			say("guest %s is said to be done, but no point was committed", g.Name)
		}
		return
	}
	var size int64
	for _, d := range g.Disks {
		switch {
		case d.Final == nil:
			if d.Plan != nil {
				say("disk %s of %s was planned but is not in the point", d.Key(), g.Name)
			}
			continue
		case d.Sealed == nil:
			say("disk %s of %s is in the point but was never sealed", d.Key(), g.Name)
		case d.Sealed.Root != d.Final.Root:
			say("disk %s of %s was sealed with root %s, but the point has %s", d.Key(), g.Name, d.Sealed.Root, d.Final.Root)
		}
		size += d.Final.Size
	}
	if size != g.Point.DiskBytes {
		say("the point of %s says it has %d bytes, its disks have %d", g.Name, g.Point.DiskBytes, size)
	}
	if g.Result != nil && g.Result.Point != g.Point.Point {
		say("guest %s has point %s, but the job's end says %q", g.Name, g.Point.Point, idOf(g.Result.Point))
	}
}

// checkEnd holds the sums of JobFinished against the facts they are of. A job
// that was stopped sums up what it had last heard, which may be less.
func (a *Account) checkEnd(say func(string, ...any)) {
	f := a.Finished
	if f.Outcome != "done" && f.Outcome != "part" && f.Outcome != "busy" || a.Started.Verb != "backup" {
		return
	}
	var sum events.JobFinished
	for _, g := range a.Guests {
		for _, d := range g.Disks {
			if g.Point == nil || d.Sealed == nil {
				continue
			}
			sum.DiskBytes += d.Sealed.Size
			sum.ZeroBytes += d.Sealed.ZeroBytes
			sum.UnchangedBytes += d.Sealed.UnchangedBytes
			sum.KnownBytes += d.Sealed.KnownBytes
			sum.NewBytes += d.Sealed.NewBytes
		}
	}
	for _, p := range a.Packs {
		sum.StoredBytes += p.Size
	}
	for _, t := range a.Tables {
		sum.StoredBytes += t.Size
	}
	for _, k := range []struct {
		what      string
		said, sum int64
	}{
		{"disk", f.DiskBytes, sum.DiskBytes}, {"zero", f.ZeroBytes, sum.ZeroBytes}, {"unchanged", f.UnchangedBytes, sum.UnchangedBytes},
		{"known", f.KnownBytes, sum.KnownBytes}, {"new", f.NewBytes, sum.NewBytes}, {"stored", f.StoredBytes, sum.StoredBytes},
	} {
		if k.said != k.sum {
			say("the job's end says %d %s bytes, its facts say %d", k.said, k.what, k.sum)
		}
	}
}

// Died lists the workers that ended otherwise than in good order. Those that
// left because the job was given up are not among them.
func (a *Account) Died() (out []*Worker) {
	for _, w := range a.Workers {
		if w.Stop != nil && w.Stop.Exit != "ok" && w.Ending() != dismissed {
			out = append(out, w)
		}
	}
	return out
}

// dismissed is how a worker ends whose control pipe was closed: the job was given
// up. Its process says so with exit status 3; see package flow.
const dismissed = "dismissed"

// Ending says how the worker ended, in words: a kill from outside is shown as
// such. Empty if its end is not written down.
func (w *Worker) Ending() string {
	if w.Stop == nil {
		return ""
	}
	signal, isSignal := strings.CutPrefix(w.Stop.Exit, "signal: ")
	switch {
	case signal == "killed":
		return "killed"
	case isSignal:
		return "signal " + signal
	case w.Stop.Exit == "exit status 3":
		return dismissed
	}
	return w.Stop.Exit
}

// share is the part of the worker's own time that d is.
func (w *Worker) share(d int64) float64 {
	all := w.Stop.BusyNS + w.Stop.StarvedNS + w.Stop.BlockedNS
	if all <= 0 {
		return 0
	}
	return float64(d) / float64(all)
}

// Life is how long the worker says it worked and waited.
func (w *Worker) Life() time.Duration {
	if w.Stop == nil {
		return 0
	}
	return time.Duration(w.Stop.BusyNS + w.Stop.StarvedNS + w.Stop.BlockedNS)
}
