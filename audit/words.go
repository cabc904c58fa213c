package audit

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/selection"
)

// writeFacts lists the facts in their order, a line each; what comes many times
// in a row is one line.
func (a *Account) writeFacts(p *page) {
	p.line("\nfacts, at the time they entered the ledger")
	var rows []string
	for n := 0; n < len(a.Facts); {
		same := a.alike(n)
		first, last := a.Facts[n], a.Facts[n+same-1]
		when, where, text := a.since(first.Time), fmt.Sprintf("@%d", first.Position), sentence(first)
		if same > 1 {
			text = together(a.Facts[n : n+same])
		}
		if last.Position != first.Position {
			when, where = when+" … "+a.since(last.Time), fmt.Sprintf("%s-%d", where, last.Position)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", when, where, clean(text)))
		n += same
	}
	p.table(rows)
}

// alike is how many facts from the n-th on are told together: packs, workers that
// start, workers that leave.
func (a *Account) alike(n int) (same int) {
	topic := func(r events.Record) string {
		switch f := r.Fact.(type) {
		case events.PackStored:
			return r.Kind
		case events.StageStarted:
			if f.Restart == 0 {
				return r.Kind
			}
		case events.StageStopped:
			if how := (&Worker{Stop: &f}).Ending(); how == "ok" || how == dismissed {
				return how
			}
		}
		return ""
	}
	first := topic(a.Facts[n])
	for same = 1; first != "" && n+same < len(a.Facts) && topic(a.Facts[n+same]) == first; {
		same++
	}
	return same
}

// together tells several facts of one kind in one sentence.
func together(rs []events.Record) string {
	var bytes int64
	var names []string
	for _, r := range rs {
		switch f := r.Fact.(type) {
		case events.PackStored:
			bytes += f.Size
		case events.StageStarted:
			names = append(names, fmt.Sprintf("%s %d", f.Stage, f.PID))
		case events.StageStopped:
			names = append(names, fmt.Sprintf("%s %d", f.Stage, f.PID))
		}
	}
	if rs[0].Kind == "PackStored" {
		return fmt.Sprintf("%d packs durable, %s", len(rs), size(bytes))
	}
	what := "started"
	if f, ok := rs[0].Fact.(events.StageStopped); ok {
		what = strings.Replace(left(f), "was ", "were ", 1)
	}
	return fmt.Sprintf("%d workers %s: %s", len(rs), what, strings.Join(names, ", "))
}

// sentence says what a fact says.
func sentence(r events.Record) string {
	switch f := r.Fact.(type) {
	case events.JobStarted:
		return "job began: " + f.Verb + " " + strings.Join(f.Sources, ", ")
	case events.JobFinished:
		return "job ended: " + f.Outcome
	case events.StageStarted:
		if f.Restart > 0 {
			return fmt.Sprintf("worker %s pid %d started in the place of one that died, restart %d", f.Stage, f.PID, f.Restart)
		}
		return fmt.Sprintf("worker %s pid %d started", f.Stage, f.PID)
	case events.StageStopped:
		return fmt.Sprintf("worker %s pid %d %s", f.Stage, f.PID, left(f))
	case events.StageScaled:
		return fmt.Sprintf("%s scaled from %d to %d workers by %s", f.Stage, f.From, f.To, f.By)
	case events.PackStored:
		return fmt.Sprintf("pack %s durable, %s", id.Short(f.Pack), size(f.Size))
	case events.ChunksStored:
		return fmt.Sprintf("chunk table %s durable: %d new chunks, %d known", id.Short(f.Table.Name), f.New, f.Known)
	case events.StateHashed:
		return fmt.Sprintf("state of the vault before position %d hashed: %.8s", f.Before, f.Hash)
	case events.JobFenced:
		return fmt.Sprintf("took over from job %s: %s", f.Fenced, f.Why)
	case events.Unknown:
		return f.Name + " (of a later version)"
	}
	return guestSentence(r)
}

// left says how a worker ended, as the end of a sentence.
func left(f events.StageStopped) string {
	switch how := (&Worker{Stop: &f}).Ending(); how {
	case "ok":
		return "left in good order"
	case "killed", dismissed:
		return "was " + how
	default:
		return "died: " + how
	}
}

// guestSentence says what a fact about one guest says.
func guestSentence(r events.Record) string {
	switch f := r.Fact.(type) {
	case events.GuestInspected:
		return fmt.Sprintf("guest %s inspected: %s, %d unprotected", f.Name, count(len(f.Disks), "disk"), len(f.Unprotected))
	case events.SnapshotTaken:
		return fmt.Sprintf("guest %s frozen: %s by %s", id.Short(f.Guest), f.Consistency, f.Method)
	case events.SnapshotReleased:
		return fmt.Sprintf("guest %s released, disks %s", id.Short(f.Guest), f.Verdict)
	case events.ChangesResolved:
		return fmt.Sprintf("disk %d of guest %s planned: %s by %s, %s", f.Number, id.Short(f.Guest), f.Mode, f.Source, count(int(f.Parcels), "parcel"))
	case events.ExtentsMapped:
		kind := "changes of"
		if f.Base {
			kind = "all of"
		}
		return fmt.Sprintf("map %s durable: %s disk %s", id.Short(f.Table.Name), kind, id.Short(f.Disk))
	case events.DiskSealed:
		return fmt.Sprintf("disk %d of guest %s sealed: %s new of %s", f.Number, id.Short(f.Guest), size(f.NewBytes), size(f.Size))
	case events.PointCommitted:
		return fmt.Sprintf("POINT %s of %s committed, %s", id.Short(f.Point), f.GuestName, f.Consistency)
	}
	return keepSentence(r)
}

// keepSentence says what a fact about keeping and forgetting says.
func keepSentence(r events.Record) string {
	switch f := r.Fact.(type) {
	case events.PointForgotten:
		return fmt.Sprintf("POINT %s forgotten (%s): %s", id.Short(f.Point), f.Rule, f.Why)
	case events.PointPinned:
		return fmt.Sprintf("point %s pinned: %s", id.Short(f.Point), f.Why)
	case events.DomainKeyed:
		return fmt.Sprintf("guest %s has keys of its own, domain %s, generation %d: %s", f.GuestName, id.Short(f.Domain.Domain), f.Generation, f.Why)
	case events.DomainShredded:
		return fmt.Sprintf("GUEST %s SHREDDED by %s, domain %s, with %s: %s", id.Short(f.Guest), f.By, id.Short(f.Domain), count(int(f.Points), "point"), f.Why)
	case events.PointUnpinned:
		return fmt.Sprintf("point %s not pinned any more", id.Short(f.Point))
	case events.PacksRetired:
		return fmt.Sprintf("%s and %s retired, %s, %s; not deleted before %s", count(len(f.Packs), "pack"), count(len(f.Tables), "table"), size(f.Bytes), f.Why, f.After)
	case events.TableReplaced:
		return fmt.Sprintf("chunk table %s replaced by %s: %s", id.Short(f.Old.Name), id.Short(f.New.Name), f.Why)
	case events.ChunkWithdrawn:
		what := "all chunks"
		if len(f.Chunks) > 0 {
			what = count(len(f.Chunks), "chunk")
		}
		return fmt.Sprintf("%s of pack %s withdrawn: %s", what, id.Short(f.Pack), f.Cause)
	case events.PointVerified:
		return fmt.Sprintf("point %s verified (%s): %d chunks, packs or tables damaged", id.Short(f.Point), f.Mode, f.DamagedCount)
	case events.ObjectsDeleted:
		return fmt.Sprintf("what position %d retired is deleted, %s", f.Retired, size(f.Bytes))
	}
	return selection.Sentence(r)
}

// clean makes names from guests safe for a terminal: what is not to be seen, or
// turns text around, is shown as an escape.
func clean(s string) string {
	unsafe := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	if !strings.ContainsFunc(s, unsafe) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unsafe(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// duration writes three digits of a time, more when it is long.
func duration(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.3f s", d.Seconds())
	case d < time.Minute-50*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%d min %02d s", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%d h %02d min", d/time.Hour, d%time.Hour/time.Minute)
}

// size writes a number of bytes as people read it.
func size(n int64) string {
	value := float64(n)
	if n > -1024 && n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	unit := -1
	for ; (value >= 1023.95 || value <= -1023.95) && unit < 5; unit++ {
		value /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}
