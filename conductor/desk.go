package conductor

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/conductor/control"
	"github.com/millrace-backup/millrace/conductor/parallel"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/stages/indexer"
	"go.uber.org/zap"
)

// attend opens the socket on which others watch and tune the job. It can do
// without.
func (j *job) attend() {
	j.enter(board.Preparing)
	s, err := control.Listen(j.folder, j.id, j)
	if err != nil {
		j.log.Warn("nobody can watch or tune this job", zap.Error(err))
		return
	}
	j.desk = s
}

// enter begins a phase. Once Running has ended nothing is tuned any more.
func (j *job) enter(phase string) {
	j.tuning.Lock()
	j.phase = phase
	j.tuning.Unlock()
	j.look(false, nil)
}

// look brings the board up to date and returns what is on it. Of stages, queues and
// arena it knows while the workers are watched.
func (j *job) look(watched bool, queued map[string]uint64) Update {
	j.tuning.Lock()
	r := board.Report{
		Type: "status", Job: j.id, Vault: j.o.Vault.ID, Host: j.o.Host, PID: os.Getpid(), Began: j.started, Phase: j.phase, Scalings: j.scalings, Limits: pace.Rates(j.folder),
	}
	j.tuning.Unlock()
	u := Update{Job: j.id, Elapsed: j.o.Now().Sub(j.started), Work: &j.work}
	j.mu.Lock()
	u.Progress = j.progress
	j.mu.Unlock()
	j.addProgress(&r, u.Progress)
	if watched {
		u.Stages = j.crew.Stages(queued)
		u.Waits = waits(u.Stages)
		r.Waits = u.Waits
		r.Arena = pools(j.arena)
	}
	j.board.Look(u.Elapsed, r, u.Stages)
	u.Report = j.board.Report()
	return u
}

// addProgress enters what the indexer says of disks and guests.
func (j *job) addProgress(r *board.Report, p indexer.Progress) {
	r.Stored = p.PackBytes + p.TableBytes
	for n := range j.work.Disks {
		r.Total += j.work.Disks[n].Info.VirtualSize
		if n < len(p.Disks) {
			d := p.Disks[n]
			r.Zero, r.Unchanged, r.Known, r.New = r.Zero+d.Zero, r.Unchanged+d.Unchanged, r.Known+d.Known, r.New+d.New
		}
	}
	r.Done = r.Zero + r.Unchanged + r.Known + r.New
	for n := range j.work.Guests {
		g := board.Guest{Guest: j.work.Guests[n].ID, Name: j.work.Guests[n].Name, LastSuccess: j.before[j.work.Guests[n].ID]}
		if n < len(p.Guests) {
			if !p.Guests[n].Point.IsZero() {
				g.Point = p.Guests[n].Point.String()
			}
			g.Failed = p.Guests[n].Fault != nil
		}
		r.Guests = append(r.Guests, g)
	}
	for _, f := range j.o.Failed {
		r.Guests = append(r.Guests, board.Guest{Guest: f.Guest, Name: f.Name, LastSuccess: j.before[f.Guest], Failed: true})
	}
}

func pools(a *arena.Arena) (out []board.Pool) {
	shape := a.Shape()
	for _, p := range []board.Pool{{Pool: "raw", SlotSize: int64(shape.RawSize)}, {Pool: "sealed", SlotSize: int64(shape.SealedSize)}} {
		which := arena.Raw
		if p.Pool == "sealed" {
			which = arena.Sealed
		}
		p.Free, p.Filling, p.Full = a.Usage(which)
		out = append(out, p)
	}
	return out
}

// successes is when the newest point of each guest of the job was taken, before it.
func (j *job) successes() map[id.Guest]time.Time {
	out := map[id.Guest]time.Time{}
	add := func(g id.Guest) {
		if known := j.o.Catalog.Guests[g]; known != nil && len(known.Points) > 0 {
			out[g] = known.Points[len(known.Points)-1].Time.Time()
		}
	}
	for _, g := range j.o.Guests {
		add(g.ID)
	}
	for _, f := range j.o.Failed {
		add(f.Guest)
	}
	return out
}

// Report implements control.Job.
func (j *job) Report() board.Report {
	r := j.board.Report()
	r.Elapsed = max(r.Elapsed, j.o.Now().Sub(j.started).Seconds()) // nobody looks while it is prepared
	return r
}

// Tune implements control.Job: an order is carried out whole or not at all, and each
// change is a fact. That a worker who is to leave still finishes what it holds is not
// waited for.
func (j *job) Tune(o control.Order) (done []control.Change, err error) {
	refuse := func(code, cause, remedy string) error {
		return &flow.Fault{Class: flow.Park, Code: code, Op: "tune job", Object: j.id.String(), Cause: cause, Remedy: remedy}
	}
	for stage, n := range o.Stages {
		if err := parallel.Check(stage, n, j.o.Remote); err != nil {
			return nil, refuse("usage", err.Error(), "give STAGE=N as millrace top names the stages")
		}
	}
	j.tuning.Lock()
	defer j.tuning.Unlock()
	switch j.phase {
	case board.Running:
	case board.Preparing:
		return nil, refuse("not-running", "its workers are not there yet", "try again in a moment, or give --parallel to the backup")
	default:
		return nil, refuse("not-running", "it is ending: its workers leave", "give --parallel to the next backup")
	}
	if o.Why == "" {
		o.Why = "asked for by millrace tune"
	}
	for _, stage := range flow.Stages() {
		to, ok := o.Stages[stage]
		if !ok {
			continue
		}
		c := control.Change{Stage: stage, From: j.o.Parallel[stage], To: to}
		if c.From != c.To {
			err = j.scale(c, o.By, o.Why)
		}
		if err != nil {
			return nil, refuse("failed", fmt.Sprintf("%s stays at %d: %v", stage, j.o.Parallel[stage], err), "see the job's log; what was changed before it stays so, and audit show tells of it")
		}
		done = append(done, c)
	}
	return done, nil
}

// scale changes one stage and notes it. j.tuning is held.
func (j *job) scale(c control.Change, by, why string) error {
	note := func(from, to int, by, why string) {
		j.scalings++
		j.o.Parallel[c.Stage] = to
		j.note(events.StageScaled{Stage: c.Stage, From: uint32(from), To: uint32(to), By: by, Why: why, At: events.At(j.o.Now())})
	}
	note(c.From, c.To, by, why)
	j.log.Info("scaled", zap.String("stage", c.Stage), zap.Int("from", c.From), zap.Int("to", c.To), zap.String("by", by), zap.String("why", why))
	if _, err := j.crew.Scale(c.Stage, c.To); err != nil {
		got := j.crew.Wanted(c.Stage)
		note(c.To, got, "auto", "no more could be started: "+err.Error())
		return err
	}
	return nil
}

// close tells those who watch how it ended.
func (j *job) close(s *Summary, err error) {
	j.enter(board.Over)
	r := j.board.Whole()
	r.Type, r.Outcome = "summary", s.Outcome
	switch {
	case err != nil:
		r.Cause = err.Error()
	case s.Outcome == "busy":
		r.Cause = "another job has all its guests"
	case s.Outcome == "part":
		r.Cause = fmt.Sprintf("%d of %d guests have no new point", len(s.Guests)-len(s.Points()), len(s.Guests))
	}
	f := s.Finished
	if s.Outcome == "done" || s.Outcome == "part" {
		r.Zero, r.Unchanged, r.Known, r.New, r.Stored = f.ZeroBytes, f.UnchangedBytes, f.KnownBytes, f.NewBytes, f.StoredBytes
		r.Done = f.DiskBytes
	}
	if s.Outcome == "" {
		r.Outcome = "failed"
	}
	r.Guests = slices.Clone(r.Guests) // others have the report
	for n, g := range r.Guests {
		for _, out := range s.Guests {
			if out.Guest == g.Guest && !out.Point.IsZero() {
				r.Guests[n].Point, r.Guests[n].LastSuccess = out.Point.String(), j.taken[out.Point]
				if p := j.o.Catalog.Points[out.Point]; p != nil {
					r.Guests[n].Scan, r.Guests[n].ScanReason = p.Scan, p.ScanReason
				}
			}
			if out.Guest == g.Guest {
				r.Guests[n].Failed = out.Point.IsZero()
			}
		}
	}
	s.Report = r
	if j.desk != nil {
		j.desk.Close(r)
	}
}
