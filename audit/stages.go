package audit

import (
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/audit/tally"
	"github.com/millrace-backup/millrace/events"
)

// totals sums up the stages.
func (a *Account) totals() []tally.Total {
	var workers []tally.Worker
	for _, w := range a.Workers {
		workers = append(workers, tally.Worker{Stage: w.Stage, Restart: w.Restart, Stop: w.Stop})
	}
	var said []events.StageAccount
	if a.Finished != nil {
		said = a.Finished.Stages
	}
	return tally.Totals(workers, said)
}

// writeTotals prints a line for each stage.
func (a *Account) writeTotals(p *page) {
	if len(a.Totals) == 0 {
		return
	}
	p.line("\nstages, all workers of each together")
	rows := []string{"STAGE\tWORKERS\tBUSY\tSTARVED\tBLOCKED\tIN\tOUT\tQUEUE\tCPU"}
	for _, t := range a.Totals {
		spent := func(d time.Duration) string { return fmt.Sprintf("%s %.0f%%", duration(d), t.Share(d)*100) }
		workers, queue := fmt.Sprint(t.Workers), "-"
		if f := t.Account; f != nil {
			workers = fmt.Sprint(f.Workers)
			if f.Most != f.Workers || int(f.Processes) != t.Workers || t.Workers != int(f.Workers) {
				workers += fmt.Sprintf(" (most %d, %d processes)", f.Most, f.Processes)
			}
			queue = fmt.Sprintf("%.1f, most %d", t.QueueMean(), f.QueueMax)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%d (%s)\t%d (%s)\t%s\t%s", clean(t.Stage), workers, spent(t.Busy), spent(t.Starved), spent(t.Blocked),
			t.InParcels, size(int64(t.InBytes)), t.OutParcels, size(int64(t.OutBytes)), queue, duration(t.CPU)))
	}
	p.table(rows)
}

// shown are the workers that get a line of their own: of a job that was tuned often,
// those that died or did not end, and as many others as one can read.
func (a *Account) shown() (out []*Worker, left int) {
	const many = 32
	sorted := byStage(a.Workers)
	if len(sorted) <= many {
		return sorted, 0
	}
	for n, w := range sorted {
		if n < many || w.Ending() != "ok" {
			out = append(out, w)
		} else {
			left++
		}
	}
	return out, left
}
