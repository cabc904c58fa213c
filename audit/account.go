package audit

import (
	"fmt"
	"iter"
	"time"

	"github.com/millrace-backup/millrace/audit/tally"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// The outcomes of a job that has not written its end: Unfinished, or Fenced if
// another job has taken over.
const (
	Unfinished = "unfinished"
	Fenced     = "fenced"
)

// Account is what the facts of one job say. Slices are in the order in which
// their first fact came.
type Account struct {
	Job      id.Job
	Outcome  string // of JobFinished: done, part, failed, interrupted; or Unfinished or Fenced
	Started  events.JobStarted
	Finished *events.JobFinished // nil: Unfinished
	Began    time.Time           // time of the first fact
	Ended    time.Time           // time of the last one
	First    uint64              // position of the first fact
	Last     uint64              // of the last one
	Guests   []*Guest
	Workers  []*Worker
	Totals   []tally.Total // of the stages, in flow order
	Scalings []Scaling
	Packs    []events.PackStored
	Tables   []events.TableRef // distinct
	Chunks   []events.ChunksStored
	Slowest  tally.Bottleneck
	Findings []string        // where facts contradict each other; none is well
	Fences   []Fence         // jobs that took over from this one
	Facts    []events.Record // all of the job's own

	seen map[id.Object]bool // packs and tables
}

// Guest is a guest of the job. What no fact tells is nil.
type Guest struct {
	ID          id.Guest
	Name        string
	Inspected   *events.GuestInspected
	Snapshot    *events.SnapshotTaken // the last
	Instants    int                   // at how many instants it was frozen; more than one: it was frozen anew
	Released    *events.SnapshotReleased
	Disks       []*Disk
	Unprotected []events.Unprotected
	Point       *events.PointCommitted
	PointTime   time.Time            // when the point entered the ledger
	Result      *events.GuestOutcome // nil: the job has not ended
}

// Disk is a disk of a guest in this job.
type Disk struct {
	ID     id.Disk
	Info   *events.DiskInfo
	Plan   *events.ChangesResolved
	Sealed *events.DiskSealed
	Final  *events.PointDisk // as the point has it; nil: it is in none
}

// Worker is one process of a stage.
type Worker struct {
	Stage   string
	Number  uint32 // among all workers of the job
	PID     int
	Restart uint32 // how often its predecessors had died
	Start   *events.StageStarted
	StartAt time.Time
	Stop    *events.StageStopped // nil: its end is not written down
	StopAt  time.Time
	Next    *Worker // took its place after it died
}

// Scaling is a change in the number of a stage's workers.
type Scaling struct {
	Time time.Time // when it was made; where that is not written down, when the fact entered the ledger
	events.StageScaled
}

// Fence says which job took over.
type Fence struct {
	Time     time.Time
	Position uint64
	By       id.Job
	events.JobFenced
}

// Timeline folds the facts of one job. The records are those of the ledger, in
// its order, from any position not after the job's first; those of other jobs are
// passed over. A job that no record is of is catalog.ErrNone; an error among the
// records is returned as it is.
func Timeline(records iter.Seq2[events.Record, error], job id.Job) (*Account, error) {
	a := &Account{Job: job, Outcome: Unfinished, seen: map[id.Object]bool{}}
	for r, err := range records {
		if err != nil {
			return nil, fmt.Errorf("timeline of job %s: %w", job, err)
		}
		if f, ok := r.Fact.(events.JobFenced); ok && f.Fenced == job {
			a.Fences = append(a.Fences, Fence{r.Time, r.Position, r.Job, f})
			if a.Finished == nil {
				a.Outcome = Fenced
			}
		}
		if r.Job != job {
			continue
		}
		if len(a.Facts) == 0 {
			a.Began, a.First = r.Time, r.Position
		}
		a.Ended, a.Last = r.Time, r.Position
		a.Facts = append(a.Facts, r)
		a.take(r)
	}
	if len(a.Facts) == 0 {
		return nil, fmt.Errorf("timeline of job %s: no fact is of it: %w", job, catalog.ErrNone)
	}
	a.Totals = a.totals()
	a.Slowest = tally.Slowest(a.Totals)
	a.Findings = a.check()
	return a, nil
}

// take folds one fact.
func (a *Account) take(r events.Record) {
	switch f := r.Fact.(type) {
	case events.JobStarted:
		a.Started = f
	case events.JobFinished:
		if a.Finished == nil {
			a.finish(f)
		}
	case events.StageStarted:
		a.startWorker(f, r.Time)
	case events.StageStopped:
		w := a.worker(f.Stage, f.Worker)
		w.PID, w.Restart, w.Stop, w.StopAt = f.PID, f.Restarts, &f, r.Time
	case events.StageScaled:
		when := r.Time
		if f.At != 0 {
			when = f.At.Time()
		}
		a.Scalings = append(a.Scalings, Scaling{when, f})
	case events.PackStored:
		if a.isNew(f.Pack) {
			a.Packs = append(a.Packs, f)
		}
	case events.ChunksStored:
		if a.addTable(f.Table) {
			a.Chunks = append(a.Chunks, f)
		}
	case events.ExtentsMapped:
		a.addTable(f.Table)
		a.guest(f.Guest).disk(f.Disk)
	default:
		a.takeGuest(r)
	}
}

// takeGuest folds what is said of one guest.
func (a *Account) takeGuest(r events.Record) {
	switch f := r.Fact.(type) {
	case events.GuestInspected:
		g := a.guest(f.Guest)
		g.Inspected, g.Name, g.Unprotected = &f, f.Name, f.Unprotected
		for i := range f.Disks {
			g.disk(f.Disks[i].Disk).Info = &f.Disks[i]
		}
	case events.SnapshotTaken:
		g := a.guest(f.Guest)
		if g.Snapshot == nil || g.Snapshot.At != f.At {
			g.Instants++
		}
		g.Snapshot = &f
	case events.SnapshotReleased:
		a.guest(f.Guest).Released = &f
	case events.ChangesResolved:
		a.guest(f.Guest).disk(f.Disk).Plan = &f
	case events.DiskSealed:
		a.guest(f.Guest).disk(f.Disk).Sealed = &f
	case events.PointCommitted:
		g := a.guest(f.Guest)
		if g.Point == nil {
			g.Point, g.PointTime = &f, r.Time
			for i := range f.Disks {
				g.disk(f.Disks[i].Disk).Final = &f.Disks[i]
			}
		}
		g.Name, g.Unprotected = f.GuestName, f.Unprotected
	}
}

func (a *Account) finish(f events.JobFinished) {
	a.Finished, a.Outcome = &f, f.Outcome
	for i := range f.Guests {
		out := &f.Guests[i]
		g := a.guestOf(out)
		g.Result = out
		if g.Name == "" {
			g.Name = out.Name
		}
	}
}

// guestOf finds the guest of a result. One that could not even be inspected may
// have no id, only the name it was asked for by.
func (a *Account) guestOf(out *events.GuestOutcome) *Guest {
	if !out.Guest.IsZero() {
		return a.guest(out.Guest)
	}
	g := &Guest{Name: out.Name}
	a.Guests = append(a.Guests, g)
	return g
}

func (a *Account) guest(g id.Guest) *Guest {
	for _, known := range a.Guests {
		if known.ID == g {
			return known
		}
	}
	a.Guests = append(a.Guests, &Guest{ID: g})
	return a.Guests[len(a.Guests)-1]
}

func (g *Guest) disk(d id.Disk) *Disk {
	for _, known := range g.Disks {
		if known.ID == d {
			return known
		}
	}
	g.Disks = append(g.Disks, &Disk{ID: d})
	return g.Disks[len(g.Disks)-1]
}

func (a *Account) worker(stage string, number uint32) *Worker {
	for _, known := range a.Workers {
		if known.Number == number && known.Stage == stage {
			return known
		}
	}
	a.Workers = append(a.Workers, &Worker{Stage: stage, Number: number})
	return a.Workers[len(a.Workers)-1]
}

// startWorker enters a worker, in the place of the first of its stage that has
// died as often as it says and has no successor yet.
func (a *Account) startWorker(f events.StageStarted, at time.Time) {
	w := a.worker(f.Stage, f.Worker)
	first := w.Start == nil
	w.PID, w.Restart, w.Start, w.StartAt = f.PID, f.Restart, &f, at
	if !first || f.Restart == 0 {
		return
	}
	for _, died := range a.Workers {
		if died != w && died.Stage == w.Stage && died.Restart+1 == w.Restart && died.Stop != nil && died.Next == nil {
			died.Next = w
			return
		}
	}
}

func (a *Account) addTable(t events.TableRef) bool {
	if t.Name.IsZero() || !a.isNew(t.Name) {
		return false
	}
	a.Tables = append(a.Tables, t)
	return true
}

func (a *Account) isNew(o id.Object) bool {
	known := a.seen[o]
	a.seen[o] = true
	return !known
}

// Duration is what the job said it took; while it has not, the time between its
// first fact and its last.
func (a *Account) Duration() time.Duration {
	if a.Finished != nil && a.Finished.DurationNS > 0 {
		return time.Duration(a.Finished.DurationNS)
	}
	return a.Ended.Sub(a.Began)
}

// CPU is the processor time of all workers whose end is known.
func (a *Account) CPU() (sum time.Duration) {
	for _, w := range a.Workers {
		if w.Stop != nil {
			sum += time.Duration(w.Stop.CPUNS)
		}
	}
	return sum
}

// Key is the disk's name inside the guest; its id if no fact has named it.
func (d *Disk) Key() string {
	switch {
	case d.Info != nil && d.Info.Key != "":
		return d.Info.Key
	case d.Final != nil && d.Final.Key != "":
		return d.Final.Key
	}
	return d.ID.String()
}

// Outcome of the guest: that of the job's end, else done if it has a point, else
// Unfinished.
func (g *Guest) Outcome() string {
	switch {
	case g.Result != nil:
		return g.Result.Outcome
	case g.Point != nil:
		return "done"
	}
	return Unfinished
}
