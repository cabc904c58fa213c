package audit

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/selection"
)

// WriteText prints the account for people: the job, each guest, the stages with
// their workers, what was stored, the facts in their order, and findings if there
// are any. Times in loc; times with a + are from the job's begin. The form may
// change; scripts use MarshalJSON.
func (a *Account) WriteText(w io.Writer, loc *time.Location) error {
	p := &page{}
	a.writeJob(p, loc)
	for _, g := range a.Guests {
		a.writeGuest(p, g)
	}
	a.writeTotals(p)
	a.writeStages(p)
	a.writeDied(p)
	a.writeStored(p)
	a.writeFacts(p)
	if len(a.Findings) > 0 {
		p.line("\nFINDINGS: facts of this job contradict each other")
		for _, f := range a.Findings {
			p.line("  ! %s", clean(f))
		}
	}
	_, err := w.Write(p.Bytes())
	return err
}

// page is text while it is written.
type page struct{ bytes.Buffer }

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// item is a line with a name in its margin; without a value it is left out.
func (p *page) item(name, value string) {
	if value != "" {
		p.line("  %-12s %s", name, clean(value))
	}
}

// table aligns rows whose cells are separated by tabs.
func (p *page) table(rows []string) {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, "  "+r)
	}
	_ = t.Flush() // into memory
	for l := range strings.Lines(b.String()) {
		p.line("%s", strings.TrimRight(l, " \n"))
	}
}

func (a *Account) writeJob(p *page, loc *time.Location) {
	s := a.Started
	took := "after " + duration(a.Duration())
	if a.Finished == nil {
		took = "last heard of " + a.since(a.Ended)
	}
	p.line("job %s  %s  %s, %s", a.Job, clean(s.Verb), strings.ToUpper(clean(a.Outcome)), took)
	began := a.Began.In(loc).Format("2006-01-02 15:04:05 MST")
	if s.Verb != "" {
		began += fmt.Sprintf(" on %s, pid %d, %s, %d CPUs, by %s, version %s", s.Host, s.PID, s.OS, s.CPUs, s.By, s.Version)
	}
	p.item("began", began)
	p.item("set", s.Set)
	for _, line := range selection.Told(a.Facts) {
		p.item("", line)
	}
	p.item("sources", strings.Join(s.Sources, ", "))
	p.item("settings", settings(s.Settings))
	if !s.Resumes.IsZero() {
		p.item("resumes", "job "+s.Resumes.String()+", which died")
	}
	if a.Finished == nil {
		p.item("no end", "it has not written that it ended: it still runs, or it died; what it stored stays usable")
	} else {
		f := a.Finished
		p.item("cause", f.Cause)
		p.item("bytes", kinds(f.DiskBytes, f.ZeroBytes, f.UnchangedBytes, f.KnownBytes, f.NewBytes)+fmt.Sprintf("; read %s, stored %s", size(f.ReadBytes), size(f.StoredBytes)))
		p.item("tuned to", settings(changed(s.Settings, f.Settings)))
	}
	for _, f := range a.Fences {
		p.item("fenced", fmt.Sprintf("%s by job %s: %s", a.since(f.Time), f.By, f.Why))
	}
	p.item("ledger", fmt.Sprintf("positions %d to %d, %s", a.First, a.Last, count(len(a.Facts), "fact")))
	sealed := 0
	for _, g := range a.Guests {
		for _, d := range g.Disks {
			if d.Sealed != nil {
				sealed++
			}
		}
	}
	verdict := "no fact contradicts another"
	if sealed > 0 {
		verdict = fmt.Sprintf("bytes by kind add up exactly on %s; %s", count(sealed, "sealed disk"), verdict)
	}
	if len(a.Findings) > 0 {
		verdict = fmt.Sprintf("%s, see the end", count(len(a.Findings), "FINDING"))
	}
	p.item("checked", verdict)
}

func (a *Account) writeGuest(p *page, g *Guest) {
	name := g.Name
	if name == "" {
		name = g.ID.String()
	}
	p.line("\nguest %s  %s", clean(name), strings.ToUpper(clean(g.Outcome())))
	if !g.ID.IsZero() {
		p.item("id", g.ID.String())
	}
	if i := g.Inspected; i != nil {
		p.item("found", i.Driver+" "+i.Source)
	}
	if s := g.Snapshot; s != nil {
		text := fmt.Sprintf("%s by %s, asked for %s", s.Consistency, s.Method, s.Policy)
		p.item("consistency", strings.TrimSuffix(text+": "+s.Reason, ": "))
		text = "frozen " + a.since(s.At.Time())
		if s.FreezeNS > 0 {
			text += ", the guest stood still for " + duration(time.Duration(s.FreezeNS))
		}
		if g.Instants > 1 {
			text += fmt.Sprintf(" (the last of %d times)", g.Instants)
		}
		if r := g.Released; r != nil {
			text += fmt.Sprintf(", held %s, disks %s while read", duration(time.Duration(r.HeldNS)), r.Verdict)
			if r.LatencyNS > 0 {
				text += fmt.Sprintf("; its requests took up to %s on average, it was read slowly for %s", duration(time.Duration(r.LatencyNS)), duration(time.Duration(r.SlowedNS)))
			}
			if r.Detail != "" {
				text += ": " + r.Detail
			}
		} else {
			text += ", not known to be released"
		}
		p.item("instant", text)
	}
	for _, d := range g.Disks {
		d.write(p)
	}
	for _, u := range g.Unprotected {
		p.item("unprotected", u.Key+": "+u.Reason)
	}
	if f := g.Point; f != nil {
		p.item("point", fmt.Sprintf("%s committed %s, scan %s", f.Point, a.since(g.PointTime), f.Scan))
	}
	if r := g.Result; r != nil && r.Code != "" {
		p.item("error", fmt.Sprintf("%s %s: %s  [%s]", r.Op, r.Object, r.Cause, r.Code))
		p.item("what to do", r.Remedy)
	}
}

func (d *Disk) write(p *page) {
	what := d.Key()
	if i := d.Info; i != nil {
		what = strings.TrimSpace(what+"  "+i.Format+" "+i.Variant) + ", " + size(i.VirtualSize)
	}
	p.item("disk", what)
	if f := d.Plan; f != nil {
		text := fmt.Sprintf("%s by %s: %s in %s to read", f.Mode, f.Source, size(f.ReadBytes), count(int(f.Parcels), "parcel"))
		if !f.Parent.IsZero() {
			text += ", compared with point " + id.Short(f.Parent)
		}
		p.item("  scan", text)
		p.item("  why", f.Reason)
	}
	f := d.Sealed
	if f == nil {
		p.item("  bytes", "not sealed: this disk was not completed")
		return
	}
	text := kinds(f.Size, f.ZeroBytes, f.UnchangedBytes, f.KnownBytes, f.NewBytes)
	if AddsUp(*f) {
		text += ", exactly"
	} else {
		text += ": DOES NOT ADD UP"
	}
	p.item("  bytes", text)
	text = fmt.Sprintf("%s read, %s stored; %d new chunks, %d known", size(f.ReadBytes), size(f.StoredBytes), f.NewChunks, f.KnownChunks)
	if f.Reread > 0 {
		text += fmt.Sprintf("; %s read again", count(int(f.Reread), "parcel"))
	}
	p.item("  work", text)
}

func (a *Account) writeStages(p *page) {
	if len(a.Workers) == 0 {
		return
	}
	p.line("\nworkers, a line for each process")
	rows := []string{"STAGE\tPID\tBUSY\tSTARVED\tBLOCKED\tIN\tOUT\tAGAIN\tSTALE\tRESTARTS\tCPU\tMEMORY\tEXIT"}
	workers, left := a.shown()
	for _, w := range workers {
		rows = append(rows, w.row())
	}
	p.table(rows)
	if left > 0 {
		p.line("  and %d more that left in good order (--json has them all)", left)
	}
	b := a.Slowest
	switch {
	case b.Stage == "":
	case b.Limiting():
		text := fmt.Sprintf("%s: its %s busy %.0f %% of %s", b.Stage, count(b.Workers, "worker"), b.Share*100, duration(b.Time))
		if b.CPU < b.Busy/2 {
			text += fmt.Sprintf(", on a processor for %s of that: it waited for a device or another stage", duration(b.CPU))
		}
		p.item("bottleneck", text)
	default:
		p.item("bottleneck", fmt.Sprintf("none: %s was busiest, %.0f %% of %s", b.Stage, b.Share*100, duration(b.Time)))
	}
	if cpu := a.CPU(); cpu > 0 && a.Started.CPUs > 0 && a.Duration() > 0 {
		share := cpu.Seconds() / a.Duration().Seconds() / float64(a.Started.CPUs)
		text := fmt.Sprintf("%s, %.0f %% of %d processors", duration(cpu), share*100, a.Started.CPUs)
		if share >= 0.9 {
			text += ": they were the limit"
		}
		p.item("CPU time", text)
	}
	for _, s := range a.Scalings {
		p.item("scaled", fmt.Sprintf("%s %s from %d to %d by %s: %s", a.since(s.Time), s.Stage, s.From, s.To, s.By, s.Why))
	}
}

// byStage keeps workers of a stage together, stages in the order of the flow:
// sinks start first, so the order is the reverse of that of the first starts.
func byStage(workers []*Worker) (out []*Worker) {
	var stages []string
	for _, w := range workers {
		if !slices.Contains(stages, w.Stage) {
			stages = append(stages, w.Stage)
		}
	}
	for _, s := range slices.Backward(stages) {
		for _, w := range workers {
			if w.Stage == s {
				out = append(out, w)
			}
		}
	}
	return out
}

func (w *Worker) row() string {
	head := fmt.Sprintf("%s\t%d\t", clean(w.Stage), w.PID)
	f := w.Stop
	if f == nil {
		return head + strings.Repeat("-\t", 7) + fmt.Sprintf("%d\t-\t-\tnot written down", w.Restart)
	}
	spent := func(ns int64) string {
		return fmt.Sprintf("%s %.0f%%", duration(time.Duration(ns)), w.share(ns)*100)
	}
	exit := w.Ending()
	if exit != "ok" && exit != dismissed {
		exit = strings.ToUpper(exit)
	}
	return head + fmt.Sprintf("%s\t%s\t%s\t%d (%s)\t%d (%s)\t%d\t%d\t%d\t%s\t%s\t%s", spent(f.BusyNS), spent(f.StarvedNS), spent(f.BlockedNS),
		f.InParcels, size(int64(f.InBytes)), f.OutParcels, size(int64(f.OutBytes)), f.Redelivered, f.Stale, w.Restart,
		duration(time.Duration(f.CPUNS)), size(f.MaxRSS), clean(exit))
}

func (a *Account) writeDied(p *page) {
	died := a.Died()
	if len(died) == 0 {
		return
	}
	p.line("\nworkers that did not end in good order")
	for _, w := range died {
		text := fmt.Sprintf("%s pid %d: %s", w.Stage, w.PID, w.Ending())
		if w.Ending() == "killed" {
			text += " (by the system, an operator or the conductor; not an error of its own)"
		}
		text += fmt.Sprintf(" after %s at work", duration(w.Life()))
		if w.Next != nil {
			text += fmt.Sprintf("; pid %d took its place", w.Next.PID)
		} else {
			text += "; not replaced"
		}
		p.line("  %s", clean(text))
	}
}

func (a *Account) writeStored(p *page) {
	if len(a.Packs)+len(a.Tables) == 0 {
		return
	}
	var packs, raw, tables int64
	var chunks uint64
	for _, f := range a.Packs {
		packs, raw, chunks = packs+f.Size, raw+f.RawBytes, chunks+uint64(f.Chunks)
	}
	for _, t := range a.Tables {
		tables += t.Size
	}
	p.line("\nstored")
	text := fmt.Sprintf("%d of %s with %s", len(a.Packs), size(packs), count(int(chunks), "chunk"))
	if raw > 0 {
		text += fmt.Sprintf(" of %s, %.2f times smaller", size(raw), float64(raw)/float64(max(packs, 1)))
	}
	p.item("packs", text)
	p.item("tables", fmt.Sprintf("%d of %s", len(a.Tables), size(tables)))
	for _, f := range a.Chunks {
		p.item("chunks", fmt.Sprintf("%d new (%s, %s stored), %d known before", f.New, size(f.NewBytes), size(f.StoredBytes), f.Known))
	}
}

func settings(m map[string]string) string {
	var out, parallel []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if stage, ok := strings.CutPrefix(k, "parallel."); ok {
			parallel = append(parallel, stage+"="+m[k])
		} else {
			out = append(out, k+"="+m[k])
		}
	}
	if len(parallel) > 0 {
		out = append(out, "parallel "+strings.Join(parallel, ","))
	}
	return strings.Join(out, " ")
}

// changed is what differs in after.
func changed(before, after map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range after {
		if before[k] != v {
			out[k] = v
		}
	}
	return out
}

func kinds(disk, zero, unchanged, known, fresh int64) string {
	return fmt.Sprintf("%s = zero %s + unchanged %s + known %s + new %s", size(disk), size(zero), size(unchanged), size(known), size(fresh))
}

// since is a time as seen from the job's begin.
func (a *Account) since(t time.Time) string {
	d := t.Sub(a.Began)
	switch {
	case d < 0:
		return "-" + duration(-d)
	case d < time.Minute:
		return fmt.Sprintf("+%.3f s", d.Seconds()) // rows that differ look different
	}
	return "+" + duration(d)
}
