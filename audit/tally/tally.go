// Package tally sums up what the stages of a job did, from the facts of their workers.
//
// [Totals] takes the accounts that workers left in the ledger (StageStopped), and, where
// the job has written down its end, what that says of queues. [Slowest] finds the
// bottleneck among the totals: the stage whose workers were busy for the largest share
// of their time, by the same rule as millrace top (package flow/meter). It is a
// function of the facts alone.
package tally

import (
	"slices"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/meter"
)

// Total is what a stage did in the job: the sum over its workers whose end is
// written down, those that died with what they last said.
type Total struct {
	meter.Load // Workers: processes that are counted
	CPU        time.Duration
	InParcels  uint64
	OutParcels uint64
	InBytes    uint64
	OutBytes   uint64
	Restarts   int
	Account    *events.StageAccount // what the job's end says of the stage; nil: nothing
}

// QueueMean is how many parcels waited for the stage or were with it, on average.
func (t *Total) QueueMean() float64 {
	if t.Account == nil || t.Account.WatchedNS <= 0 {
		return 0
	}
	return float64(t.Account.QueueNS) / float64(t.Account.WatchedNS)
}

// Worker is one process, as far as it counts here.
type Worker struct {
	Stage   string
	Restart uint32
	Stop    *events.StageStopped // nil: its end is not written down
}

// Totals sums up the workers of each stage that has any. accounts are those of the
// job's end, if it has come. Stages of a later version come last.
func Totals(workers []Worker, accounts []events.StageAccount) (out []Total) {
	at := map[string]int{}
	for _, stage := range flow.Stages() {
		at[stage] = len(out)
		out = append(out, Total{Load: meter.Load{Stage: stage}})
	}
	for _, w := range workers {
		n, known := at[w.Stage]
		if !known {
			n = len(out)
			at[w.Stage] = n
			out = append(out, Total{Load: meter.Load{Stage: w.Stage}})
		}
		t := &out[n]
		if w.Restart > 0 {
			t.Restarts++
		}
		f := w.Stop
		if f == nil {
			continue
		}
		t.Workers++
		t.Busy += time.Duration(f.BusyNS)
		t.Starved += time.Duration(f.StarvedNS)
		t.Blocked += time.Duration(f.BlockedNS)
		t.CPU += time.Duration(f.CPUNS)
		t.InParcels, t.OutParcels, t.InBytes, t.OutBytes = t.InParcels+f.InParcels, t.OutParcels+f.OutParcels, t.InBytes+f.InBytes, t.OutBytes+f.OutBytes
	}
	for i := range accounts {
		if n, known := at[accounts[i].Stage]; known {
			out[n].Account = &accounts[i]
		}
	}
	return slices.DeleteFunc(out, func(t Total) bool { return t.Workers == 0 && t.Account == nil })
}

// Bottleneck is the stage whose workers were busy for the largest share of their
// time. Stage is empty if no worker has left an account.
type Bottleneck struct {
	Stage   string
	Workers int
	Time    time.Duration // of all of them together
	Busy    time.Duration // of it they were busy
	CPU     time.Duration // what they used of processors
	Share   float64       // Busy of Time, 0 to 1

	limiting bool
}

// Limiting reports whether the stage was what the others waited for: below half,
// none was.
func (b Bottleneck) Limiting() bool { return b.limiting }

// Slowest finds the bottleneck.
func Slowest(totals []Total) Bottleneck {
	var loads []meter.Load
	for _, t := range totals {
		loads = append(loads, t.Load)
	}
	l := meter.Slowest(loads)
	b := Bottleneck{l.Stage, l.Workers, l.Time(), l.Busy, 0, l.Share(l.Busy), l.Limiting()}
	for _, t := range totals {
		if t.Stage == l.Stage {
			b.CPU = t.CPU
		}
	}
	return b
}

// Form is a Total as JSON gives it.
type Form struct {
	Stage      string  `json:"stage"`
	Workers    uint32  `json:"workers"`   // that were wanted at the end; 0: not written down
	Most       uint32  `json:"most"`      // at one moment
	Processes  int     `json:"processes"` // whose end is written down
	Restarts   int     `json:"restarts"`
	Busy       float64 `json:"busy_s"`
	Starved    float64 `json:"starved_s"`
	Blocked    float64 `json:"blocked_s"`
	BusyPart   float64 `json:"busy_percent"`
	CPU        float64 `json:"cpu_s"`
	InParcels  uint64  `json:"in_parcels"`
	OutParcels uint64  `json:"out_parcels"`
	InBytes    uint64  `json:"in_bytes"`
	OutBytes   uint64  `json:"out_bytes"`
	QueueMean  float64 `json:"queue_mean"`
	QueueMax   uint64  `json:"queue_max"`
}

// Form returns the total as JSON gives it.
func (t *Total) Form() Form {
	j := Form{
		Stage: t.Stage, Processes: t.Workers, Restarts: t.Restarts, Busy: t.Busy.Seconds(), Starved: t.Starved.Seconds(), Blocked: t.Blocked.Seconds(),
		BusyPart: float64(int(t.Share(t.Busy)*1000+0.5)) / 10, CPU: t.CPU.Seconds(), InParcels: t.InParcels, OutParcels: t.OutParcels, InBytes: t.InBytes, OutBytes: t.OutBytes,
	}
	if f := t.Account; f != nil {
		j.Workers, j.Most, j.QueueMean, j.QueueMax = f.Workers, f.Most, float64(int(t.QueueMean()*100+0.5))/100, f.QueueMax
	}
	return j
}
