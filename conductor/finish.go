package conductor

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog/points"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"go.uber.org/zap"
)

func operatingSystem() string { return runtime.GOOS + "/" + runtime.GOARCH }

// finish writes what came of the job under a checkpoint and sums it up. It works
// with its own time, because an interrupted job is to be written down too. If the
// vault is away just now, a job that went well until here waits for it.
func (j *job) finish(ctx context.Context) (Summary, error) {
	fault := j.stopped()
	s := Summary{Job: j.id, Duration: j.o.Now().Sub(j.started), SlotsLeft: j.leaked}
	if j.crew != nil {
		s.Stages = j.crew.Stages(nil)
		j.board.Look(s.Duration, j.board.Report(), s.Stages)
	}
	j.log.Info("appends that another writer was faster with", zap.Uint64("lost", j.o.Ledger.Lost()))
	var r result
	if err := j.patiently(ctx, fault != nil, func() (err error) { r, err = j.result(ctx); return err }); err != nil {
		j.log.Warn("read the job back", zap.Error(err))
		if fault == nil {
			fault = flow.AsFault(flow.VaultFault("read back the job from", j.o.Location, err), "conductor")
		}
	}
	if fault != nil && r.fenced != nil {
		// Whatever it was that came up first when a stopped job woke up.
		fault = flow.AsFault(flow.VaultFault("append to the ledger", j.o.Location, r.fenced), "conductor")
	}
	s.Finished = j.account(r, fault)
	s.Finished.DurationNS = int64(s.Duration)
	s.Finished.Stages = j.board.Accounts(s.Stages)
	s.Outcome, s.Guests = s.Finished.Outcome, s.Finished.Guests
	j.mu.Lock()
	facts := append(j.pending, s.Finished)
	j.pending = nil
	j.mu.Unlock()
	for _, f := range facts {
		if stopped, ok := f.(events.StageStopped); ok {
			s.CPU += time.Duration(stopped.CPUNS)
		}
	}
	if err := j.sign(ctx, &s, facts, fault != nil); err != nil && fault == nil {
		return s, flow.VaultFault("write down the end of the job in", j.o.Location, err)
	} else if err != nil {
		j.log.Warn("the end of the job is not written down", zap.Error(err))
	}
	if fault != nil {
		return s, fault
	}
	return s, nil
}

// sign appends the last facts and signs the ledger. StateHashed says what the
// catalog was before them. No guard: that a fenced job has ended is worth knowing,
// commits nothing and holds nothing.
func (j *job) sign(ctx context.Context, s *Summary, facts []events.Fact, stopping bool) error {
	written := false
	return j.patiently(ctx, stopping, func() error {
		ctx, cancel := lastTime(ctx)
		defer cancel()
		if !written {
			h, err := j.hashed(ctx)
			if err != nil {
				return err
			}
			if s.Position, err = j.o.Ledger.Append(ctx, j.id, append(facts[:len(facts):len(facts)], h), nil, nil); err != nil {
				return err
			}
			written = true
		}
		var err error
		s.Checkpoint, err = j.o.Ledger.Checkpoint(ctx)
		return err
	})
}

// lastTime is the time that each of the last steps gets, interrupted or not.
func lastTime(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
}

// result is what the ledger says came of the job. Not what the indexer reported
// last: a worker may have died between the two.
type result struct {
	points map[id.Guest]id.Point
	sealed map[diskOf]events.DiskSealed
	stored int64 // bytes of the packs and tables brought in
	fenced error // who has taken over, if anybody has
}

// diskOf names a disk: two guests may have one of the same id, as copies of a
// machine do.
type diskOf struct {
	guest id.Guest
	disk  id.Disk
}

func (j *job) result(ctx context.Context) (result, error) {
	ctx, cancel := lastTime(ctx)
	defer cancel()
	out := result{points: map[id.Guest]id.Point{}, sealed: map[diskOf]events.DiskSealed{}}
	j.taken = map[id.Point]time.Time{}
	chunks := map[id.Object]bool{}
	for r, err := range j.o.Ledger.Records(ctx, j.work.Position) {
		if err != nil {
			return out, err
		}
		if f, ok := r.Fact.(events.JobFenced); ok && f.Fenced == j.id {
			out.fenced = fmt.Errorf("%w at position %d: job %s: %s", ledger.ErrFenced, r.Position, r.Job, f.Why)
		}
		if r.Job != j.id {
			continue
		}
		switch f := r.Fact.(type) {
		case events.PackStored:
			out.stored += f.Size
		case events.ChunksStored:
			if !chunks[f.Table.Name] {
				chunks[f.Table.Name] = true
				out.stored += f.Table.Size
			}
		case events.ExtentsMapped:
			out.stored += f.Table.Size
		case events.DiskSealed:
			out.sealed[diskOf{f.Guest, f.Disk}] = f
		case events.PointCommitted:
			out.points[f.Guest] = f.Point
			j.taken[f.Point] = f.Time.Time()
		}
	}
	return out, nil
}

// account sums up the job. The bytes of a guest that failed protect nothing and
// are not counted.
func (j *job) account(r result, fault *flow.Fault) events.JobFinished {
	j.mu.Lock()
	p := j.progress
	j.mu.Unlock()
	f := events.JobFinished{Settings: j.o.settings(), StoredBytes: r.stored}
	failed := len(j.o.Failed)
	for n, g := range j.work.Guests {
		out := events.GuestOutcome{Guest: g.ID, Name: g.Name, Outcome: "done", Point: r.points[g.ID]}
		if out.Point.IsZero() {
			failed++
			out.Outcome = "failed"
			why := fault
			if n < len(p.Guests) && p.Guests[n].Fault != nil {
				why = p.Guests[n].Fault
			}
			if why != nil {
				out.Code, out.Op, out.Object, out.Cause, out.Remedy = why.Code, why.Op, why.Object, why.Cause, why.Remedy
			}
		} else {
			for _, d := range j.work.DisksOf(uint32(n)) {
				points.Add(&f, r.sealed[diskOf{g.ID, j.work.Disks[d].Info.Disk}])
			}
		}
		f.Guests = append(f.Guests, out)
	}
	f.Guests = append(f.Guests, j.o.Failed...)
	switch {
	case fault != nil && fault.Code == "interrupted":
		f.Outcome, f.Cause = "interrupted", fault.Error()
	case fault != nil:
		f.Outcome, f.Cause = "failed", fault.Error()
	case failed > 0 && !slices.ContainsFunc(f.Guests, func(g events.GuestOutcome) bool { return g.Code != "guest-busy" }):
		f.Outcome = "busy" // nothing else was wrong, and nothing was done
	case failed > 0:
		f.Outcome = "part"
	default:
		f.Outcome = "done"
	}
	return f
}
