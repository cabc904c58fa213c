// Package board keeps the figures of a running job for those who watch it: the
// terminal, millrace top, Prometheus, and the ledger at the end.
//
// The conductor calls [Board.Look] a few times a second with what it sees.
// [Board.Report] is how the job stands, with totals since its begin and shares and
// rates over about the last second. [Board.Accounts] is what is written down at the
// end.
//
// Units are bytes, seconds and shares from 0 to 1. Totals only grow, and include
// workers that have gone; what a killed worker did in its last quarter of a second
// is missing, and its parcels are counted again with who does them again. A Report
// is a value: whoever has one may keep it. Methods may be called from several
// goroutines. The package measures nothing itself.
package board

import (
	"slices"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/conductor/crew"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/meter"
	"github.com/millrace-backup/millrace/id"
)

// The phases of a job.
const (
	Preparing = "preparing" // who has the guests, what is in the vault
	Running   = "running"   // workers are there and can be tuned
	Ending    = "ending"    // workers leave, the end is written down
	Over      = "over"
)

// Report is how a job stands. It is a line of top --json and of backup --json.
type Report struct {
	Type       string           `json:"type"` // "status"; "summary" for the last one
	Job        id.Job           `json:"job"`
	Vault      id.Vault         `json:"vault"`
	Host       string           `json:"host"`
	PID        int              `json:"pid"`
	Began      time.Time        `json:"began"`
	Elapsed    float64          `json:"elapsed_s"`
	Phase      string           `json:"phase"`
	Outcome    string           `json:"outcome,omitempty"` // of the last: done, part, failed, interrupted
	Cause      string           `json:"cause,omitempty"`   // of an outcome that is not done
	Waits      string           `json:"waits,omitempty"`   // for what, while the vault is away
	Done       int64            `json:"done_bytes"`        // of the disks: Zero + Unchanged + Known + New
	Total      int64            `json:"total_bytes"`
	Zero       int64            `json:"zero_bytes"`
	Unchanged  int64            `json:"unchanged_bytes"`
	Known      int64            `json:"known_bytes"`
	New        int64            `json:"new_bytes"`
	Stored     int64            `json:"stored_bytes"` // packs that are durable, and tables
	Guests     []Guest          `json:"guests"`
	Stages     []Stage          `json:"stages"`     // in flow order; none before the workers are there
	Bottleneck string           `json:"bottleneck"` // the stage the others waited for in the last second; "": none
	Arena      []Pool           `json:"arena"`
	Limits     map[string]int64 `json:"limits,omitempty"` // bytes a second that a stage keeps to now
	Scalings   int              `json:"scalings"`         // changes of a stage's parallelism so far
}

// Guest is a guest of the job.
type Guest struct {
	Guest       id.Guest  `json:"guest"`
	Name        string    `json:"name"`
	Point       string    `json:"point,omitempty"`       // that this job has committed
	LastSuccess time.Time `json:"last_success,omitzero"` // when its newest point was taken, an earlier job's or this one's
	Failed      bool      `json:"failed,omitempty"`
	// How its disks were read, and why so; when it has its point.
	Scan       string `json:"scan,omitempty"`
	ScanReason string `json:"scan_reason,omitempty"`
}

// Stage is how a stage stands. Shares and rates are those of about the last second.
type Stage struct {
	Stage       string  `json:"stage"`
	Workers     int     `json:"workers"`
	Leaving     int     `json:"leaving"`   // of them: asked to leave
	Elsewhere   int     `json:"elsewhere"` // of them: on other machines
	Restarts    int     `json:"restarts"`
	Queue       uint64  `json:"queue"` // parcels that wait for it or are with it
	Held        int64   `json:"held"`  // of them: with its workers
	Busy        float64 `json:"busy"`
	Starved     float64 `json:"starved"`
	Blocked     float64 `json:"blocked"`
	Rate        float64 `json:"bytes_per_s"` // the larger of the next two
	InRate      float64 `json:"in_bytes_per_s"`
	OutRate     float64 `json:"out_bytes_per_s"`
	ParcelRate  float64 `json:"parcels_per_s"` // that came in
	CPU         float64 `json:"cpu"`           // processors in use
	BusyS       float64 `json:"busy_s"`
	StarvedS    float64 `json:"starved_s"`
	BlockedS    float64 `json:"blocked_s"`
	CPUS        float64 `json:"cpu_s"`
	InParcels   uint64  `json:"in_parcels"`
	OutParcels  uint64  `json:"out_parcels"`
	InBytes     uint64  `json:"in_bytes"`
	OutBytes    uint64  `json:"out_bytes"`
	Redelivered uint64  `json:"redelivered"`
	Stale       uint64  `json:"stale"`
}

// Pool is a part of the arena, in slots.
type Pool struct {
	Pool     string `json:"pool"`
	SlotSize int64  `json:"slot_bytes"`
	Free     int    `json:"free"`
	Filling  int    `json:"filling"`
	Full     int    `json:"full"`
}

// Used is how many slots are not free.
func (p Pool) Used() int { return p.Filling + p.Full }

// Board keeps the figures. Interval is the time over which rates are taken; 0 means
// a second.
type Board struct {
	Interval time.Duration

	mu     sync.Mutex
	report Report
	stages []crew.Stage // as of from, for the rates
	from   time.Duration
	last   time.Duration // of Look
	queues map[string]*queue
	totals []crew.Stage
}

// queue is what is remembered of a stage's queue.
type queue struct {
	most    uint64
	weighed time.Duration // its length summed up over time
	watched time.Duration
}

// Look takes in how the job stands at a time since its begin. r has what is not of
// stages; stages nil means that nothing is known of them now.
func (b *Board) Look(at time.Duration, r Report, stages []crew.Stage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.Elapsed = at.Seconds()
	r.Stages, r.Bottleneck = b.report.Stages, b.report.Bottleneck
	if stages != nil {
		r.Stages = slices.Clone(r.Stages) // a report that somebody has stays as it is
		b.count(at, stages)
		b.renew(at, &r, stages)
		b.totals = stages
	}
	b.report = r
}

// Report is how the job stood when Look was last called.
func (b *Board) Report() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.report
}

// Whole is the last Report with the shares, rates and bottleneck of the whole job.
func (b *Board) Whole() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.report
	r.Stages, r.Bottleneck = nil, ""
	var loads []meter.Load
	for _, s := range b.totals {
		x := total(s)
		loads = append(loads, x.rates(flow.Status{}, s, time.Duration(r.Elapsed*float64(time.Second))))
		r.Stages = append(r.Stages, x)
	}
	if l := meter.Slowest(loads); l.Limiting() {
		r.Bottleneck = l.Stage
	}
	return r
}

func (b *Board) count(at time.Duration, stages []crew.Stage) {
	if b.queues == nil {
		b.queues = map[string]*queue{}
		b.last = at
	}
	for _, s := range stages {
		q := b.queues[s.Stage]
		if q == nil {
			q = &queue{}
			b.queues[s.Stage] = q
		}
		q.most = max(q.most, s.Queue)
		q.weighed += time.Duration(s.Queue) * (at - b.last)
		q.watched += at - b.last
	}
	b.last = at
}

// renew enters totals, and rates if the last ones are old enough.
func (b *Board) renew(at time.Duration, r *Report, stages []crew.Stage) {
	interval := b.Interval
	if interval == 0 {
		interval = time.Second
	}
	fresh := b.stages == nil || len(r.Stages) != len(stages) || at-b.from >= interval
	if len(r.Stages) != len(stages) {
		r.Stages = make([]Stage, len(stages))
	}
	var loads []meter.Load
	for n, s := range stages {
		x := total(s)
		if fresh {
			l := x.rates(before(b.stages, n), s, at-b.from)
			loads = append(loads, l)
		} else {
			o := r.Stages[n]
			x.Busy, x.Starved, x.Blocked, x.CPU = o.Busy, o.Starved, o.Blocked, o.CPU
			x.Rate, x.InRate, x.OutRate, x.ParcelRate = o.Rate, o.InRate, o.OutRate, o.ParcelRate
		}
		r.Stages[n] = x
	}
	if fresh {
		r.Bottleneck = ""
		if l := meter.Slowest(loads); l.Limiting() {
			r.Bottleneck = l.Stage
		}
		b.stages, b.from = stages, at
	}
}

func before(stages []crew.Stage, n int) flow.Status {
	if n < len(stages) {
		return stages[n].Status
	}
	return flow.Status{}
}

func total(s crew.Stage) Stage {
	return Stage{
		Stage: s.Stage, Workers: s.Workers, Leaving: s.Leaving, Elsewhere: s.Elsewhere, Restarts: s.Restarts, Queue: s.Queue, Held: s.Held,
		BusyS: seconds(s.BusyNS), StarvedS: seconds(s.StarvedNS), BlockedS: seconds(s.BlockedNS), CPUS: seconds(s.CPUNS),
		InParcels: s.InParcels, OutParcels: s.OutParcels, InBytes: s.InBytes, OutBytes: s.OutBytes, Redelivered: s.Redelivered, Stale: s.Stale,
	}
}

// rates enters what the stage did in some time.
func (x *Stage) rates(old flow.Status, now crew.Stage, took time.Duration) meter.Load {
	l := meter.Load{
		Stage: now.Stage, Workers: now.Workers,
		Busy: grown(now.BusyNS, old.BusyNS), Starved: grown(now.StarvedNS, old.StarvedNS), Blocked: grown(now.BlockedNS, old.BlockedNS),
	}
	x.Busy, x.Starved, x.Blocked = l.Share(l.Busy), l.Share(l.Starved), l.Share(l.Blocked)
	if t := took.Seconds(); t > 0 {
		x.InRate = float64(more(now.InBytes, old.InBytes)) / t
		x.OutRate = float64(more(now.OutBytes, old.OutBytes)) / t
		x.ParcelRate = float64(more(now.InParcels, old.InParcels)) / t
		x.Rate = max(x.InRate, x.OutRate)
		x.CPU = grown(now.CPUNS, old.CPUNS).Seconds() / t
	}
	return l
}

func more(now, old uint64) uint64 { return now - min(now, old) }

func grown(now, old int64) time.Duration { return time.Duration(max(0, now-old)) }

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }

// Accounts is what every stage did in the job, given how the stages stand at its
// end, for JobFinished.
func (b *Board) Accounts(stages []crew.Stage) (out []events.StageAccount) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range stages {
		a := events.StageAccount{
			Stage: s.Stage, Workers: uint32(s.Wanted), Most: uint32(s.Most), Processes: uint32(s.Processes), Restarts: uint32(s.Restarts),
			BusyNS: s.BusyNS, StarvedNS: s.StarvedNS, BlockedNS: s.BlockedNS, CPUNS: s.CPUNS,
			InParcels: s.InParcels, OutParcels: s.OutParcels, InBytes: s.InBytes, OutBytes: s.OutBytes, Redelivered: s.Redelivered, Stale: s.Stale,
		}
		if q := b.queues[s.Stage]; q != nil {
			a.QueueMax, a.QueueNS, a.WatchedNS = q.most, int64(q.weighed), int64(q.watched)
		}
		out = append(out, a)
	}
	return out
}
