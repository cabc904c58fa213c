package conductor

import (
	"context"
	"runtime"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/stages/indexer"
	"go.uber.org/zap"
)

func operatingSystem() string { return runtime.GOOS + "/" + runtime.GOARCH }

// finish writes what came of the job under a checkpoint and sums it up. It works
// with its own time, because an interrupted job is to be written down too.
func (j *job) finish(ctx context.Context) (Summary, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	fault := j.stopped()
	s := Summary{Job: j.id, Duration: j.o.Now().Sub(j.started), SlotsLeft: j.leaked}
	if j.crew != nil {
		s.Stages = j.crew.updates(nil)
	}
	s.Finished = j.account(fault)
	s.Finished.DurationNS = int64(s.Duration)
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
	if err := j.sign(ctx, &s, facts); err != nil && fault == nil {
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
// catalog was before them.
func (j *job) sign(ctx context.Context, s *Summary, facts []events.Fact) error {
	h, err := j.hashed(ctx)
	if err != nil {
		return err
	}
	if s.Position, err = j.o.Ledger.Append(ctx, j.id, append(facts, h), nil, nil); err != nil {
		return err
	}
	s.Checkpoint, err = j.o.Ledger.Checkpoint(ctx)
	return err
}

// account folds the last progress into the job's result.
func (j *job) account(fault *flow.Fault) events.JobFinished {
	j.mu.Lock()
	p := j.progress
	j.mu.Unlock()
	f := events.JobFinished{Settings: j.o.settings(), StoredBytes: p.PackBytes + p.TableBytes}
	failed := 0
	for n, g := range j.work.Guests {
		out := events.GuestOutcome{Guest: g.ID, Name: g.Name, Outcome: "failed"}
		why := fault
		if n < len(p.Guests) {
			if out.Point = p.Guests[n].Point; !out.Point.IsZero() {
				out.Outcome, why = "done", nil
			} else if p.Guests[n].Fault != nil {
				why = p.Guests[n].Fault
			}
		}
		if why != nil {
			out.Code, out.Op, out.Object, out.Cause, out.Remedy = why.Code, why.Op, why.Object, why.Cause, why.Remedy
		}
		if out.Outcome == "done" {
			j.addDisks(&f, p.Disks, uint32(n))
		} else {
			failed++
		}
		f.Guests = append(f.Guests, out)
	}
	f.Guests = append(f.Guests, j.o.Failed...)
	failed += len(j.o.Failed)
	switch {
	case fault != nil && fault.Code == "interrupted":
		f.Outcome, f.Cause = "interrupted", fault.Error()
	case fault != nil:
		f.Outcome, f.Cause = "failed", fault.Error()
	case failed > 0:
		f.Outcome = "part"
	default:
		f.Outcome = "done"
	}
	return f
}

// addDisks counts the disks of a guest that has a point. The bytes of a guest
// that failed protect nothing and are not counted.
func (j *job) addDisks(f *events.JobFinished, disks []indexer.DiskProgress, guest uint32) {
	for _, n := range j.work.DisksOf(guest) {
		if int(n) >= len(disks) {
			continue
		}
		d := disks[n]
		f.DiskBytes += d.Size
		f.ReadBytes += d.Read
		f.ZeroBytes += d.Zero
		f.UnchangedBytes += d.Unchanged
		f.KnownBytes += d.Known
		f.NewBytes += d.New
	}
}
