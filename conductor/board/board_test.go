package board

import (
	"math"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/conductor/crew"
	"github.com/millrace-backup/millrace/flow"
)

func stage(name string, workers int, queue uint64, busy, starved, blocked time.Duration, in uint64) crew.Stage {
	return crew.Stage{Stage: name, Workers: workers, Wanted: workers, Most: workers, Processes: workers, Queue: queue, Status: flow.Status{
		Stage: name, BusyNS: int64(busy), StarvedNS: int64(starved), BlockedNS: int64(blocked), InBytes: in, OutBytes: in / 2, InParcels: in >> 22, CPUNS: int64(busy / 2),
	}}
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

// Shares and rates are those of the last second, totals those of the job; between two
// seconds only totals move, and a report that somebody has stays as it is.
func TestRatesAreOfTheLastSecond(t *testing.T) {
	var b Board
	s := time.Second
	b.Look(0, Report{}, []crew.Stage{stage("reader", 1, 4, 0, 0, 0, 0), stage("seal", 2, 0, 0, 0, 0, 0)})
	b.Look(s, Report{Done: 7}, []crew.Stage{stage("reader", 1, 8, s/4, 0, 3*s/4, 100<<20), stage("seal", 2, 2, 9*s/5, s/5, 0, 80<<20)})
	r := b.Report()
	x := r.Stages[1]
	if r.Bottleneck != "seal" || r.Done != 7 || r.Elapsed != 1 || !near(x.Busy, 0.9) || !near(x.Starved, 0.1) || x.Blocked != 0 || !near(x.InRate, 80<<20) || !near(x.OutRate, 40<<20) || x.Rate != x.InRate || !near(x.CPU, 0.9) || x.ParcelRate != 20 {
		t.Errorf("after a second: %+v", r)
	}
	b.Look(s+s/2, Report{}, []crew.Stage{stage("reader", 1, 8, s/2, 0, s, 110<<20), stage("seal", 3, 2, 9*s/5, 2*s, 0, 80<<20)})
	h := b.Report()
	if h.Stages[1].Busy != x.Busy || h.Stages[1].Rate != x.Rate || h.Stages[1].StarvedS != 2 || h.Stages[1].Workers != 3 || h.Bottleneck != "seal" {
		t.Errorf("half a second later: %+v", h)
	}
	if r.Stages[1] != x {
		t.Error("a report that was given out has changed")
	}
	b.Look(2*s, Report{}, []crew.Stage{stage("reader", 1, 0, s/2, 0, 3*s/2, 120<<20), stage("seal", 3, 0, 9*s/5, 16*s/5, 0, 80<<20)})
	if r = b.Report(); r.Bottleneck != "" || r.Stages[1].Busy != 0 || r.Stages[1].InRate != 0 || !near(r.Stages[0].Blocked, 0.75) {
		t.Errorf("nobody is the bottleneck where all wait: %+v", r)
	}
	if w := b.Whole(); w.Bottleneck != "" || !near(w.Stages[0].InRate, 60<<20) || !near(w.Stages[1].Busy, 1.8/5) || w.Elapsed != 2 {
		t.Errorf("the whole job: %+v", w)
	}
	a := b.Accounts([]crew.Stage{stage("reader", 1, 0, s/2, 0, 3*s/2, 120<<20)})
	// 8 for a second, 8 for half, 0 for half: what was seen counts for the time before it.
	if len(a) != 1 || a[0].QueueMax != 8 || a[0].WatchedNS != int64(2*s) || a[0].QueueNS != int64(12*s) || a[0].InBytes != 120<<20 || a[0].BusyNS != int64(s/2) {
		t.Errorf("written down: %+v", a)
	}
}

// Counters that seem to shrink (a worker's last word is younger than its end) are no
// gigantic rates; times without stages keep what was known.
func TestOddFigures(t *testing.T) {
	var b Board
	b.Look(0, Report{}, []crew.Stage{stage("seal", 1, 0, time.Second, 0, 0, 9<<20)})
	b.Look(2*time.Second, Report{}, []crew.Stage{stage("seal", 1, 0, time.Second/2, 0, 0, 1<<20)})
	if x := b.Report().Stages[0]; x.Rate != 0 || x.Busy != 0 || x.CPU != 0 {
		t.Errorf("%+v", x)
	}
	b.Look(3*time.Second, Report{Phase: Ending}, nil)
	if r := b.Report(); r.Phase != Ending || len(r.Stages) != 1 || r.Elapsed != 3 {
		t.Errorf("%+v", r)
	}
	var empty Board
	if w := empty.Whole(); w.Stages != nil || w.Bottleneck != "" || empty.Accounts(nil) != nil {
		t.Errorf("%+v", w)
	}
}
