package runs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/bydomain"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor"
	"github.com/millrace-backup/millrace/conductor/runs"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/launch"
	"github.com/millrace-backup/millrace/hypervisor/run"
	"github.com/millrace-backup/millrace/id"
)

// keep makes a point of what the guest of a run has written, and ends the run. The point is
// there before anything of the run goes: a crash before leaves a run that stands still, of
// which the same command makes the point, or finds it.
func (a verb) keep(ctx context.Context, v *session.Vault, r *runs.Run, grace time.Duration) error {
	begun := a.Now()
	if err := a.still(ctx, v, r, grace); err != nil {
		return fault.At("keep run", id.Short(r.ID), err)
	}
	p, err := a.kept(ctx, v, r)
	if err != nil {
		return err
	}
	var did events.JobFinished
	if p == nil {
		s, err := a.backUp(ctx, v, r)
		if err != nil {
			return err
		}
		did = s.Finished
		if p, err = a.kept(ctx, v, r); err != nil || p == nil {
			return fault.At("keep run", id.Short(r.ID), errors.Join(err, errors.New("the job has left no point")))
		}
	}
	written := r.Counts().Overlay
	if err := a.forget(ctx, v, r, events.RunKept{Run: r.ID, Overlay: r.Folder(), OverlayBytes: written, Point: p.Point}); err != nil {
		return err
	}
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type     string   `json:"type"`
			Run      id.Job   `json:"run"`
			Point    id.Point `json:"point"`
			Overlay  int64    `json:"overlay_bytes"`
			Read     int64    `json:"read_bytes"`
			New      int64    `json:"new_bytes"`
			Stored   int64    `json:"stored_bytes"`
			Duration float64  `json:"duration_s"`
		}{"summary", r.ID, p.Point, written, did.ReadBytes, did.NewBytes, did.StoredBytes, a.Now().Sub(begun).Seconds()})
		return nil
	}
	fmt.Fprintf(a.Stdout, "run %s  %s ended; what its guest had written is in point %s (%s)\n", id.Short(r.ID), session.Plain(r.Name), id.Short(p.Point), p.Consistency)
	return nil
}

// still ends the guest, and sees that the disks are served for reading and nothing else.
func (a verb) still(ctx context.Context, v *session.Vault, r *runs.Run, grace time.Duration) error {
	if !r.Keeping.IsZero() && r.Running() {
		return nil
	}
	consistency, reason := hypervisor.CrashConsistent, "the run served disks: what who wrote to them held back is not there"
	if r.Host != "" {
		off, err := r.Machine().ShutDown(ctx, grace)
		switch {
		case errors.Is(err, launch.ErrGone):
			reason = "how the guest ended is not known"
		case off:
			consistency, reason = hypervisor.Offline, ""
		case grace > 0:
			return errors.Join(fmt.Errorf("%w in %s", runs.ErrOn, grace), err)
		default:
			reason = "the guest was switched off"
			if err := r.Machine().Stop(ctx, 0); err != nil {
				return err
			}
		}
	}
	late, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := runs.End(late, r); err != nil {
		return err
	}
	if err := r.Keep(ctx, consistency, reason, a.Now()); err != nil {
		return err
	}
	grant, err := readingKeys(v)
	if err == nil {
		_, err = a.supervised(ctx, grant, r)
	}
	return err
}

// kept finds the point that was made of a run since it stands still; nil: there is none.
func (a verb) kept(ctx context.Context, v *session.Vault, r *runs.Run) (*catalog.Point, error) {
	s, err := v.Now(ctx)
	if err != nil {
		return nil, err
	}
	g := s.Guests[r.Guest]
	for n := 0; g != nil && n < len(g.Points); n++ {
		if p := g.Points[n]; p.Driver == run.Name && p.Source == r.Offer() && p.Time.Time().After(r.Keeping) {
			return p, nil
		}
	}
	return nil, nil
}

// backUp runs the job.
func (a verb) backUp(ctx context.Context, v *session.Vault, r *runs.Run) (s conductor.Summary, err error) {
	guests, err := run.New(r.Offer()).Inspect(ctx)
	if err != nil {
		return s, fault.At("read the disks of run", id.Short(r.ID), err)
	}
	groups, err := bydomain.Plan(ctx, a.App, v, guests, "")
	if err != nil {
		return s, err
	}
	exe, err := os.Executable()
	if err != nil {
		return s, fault.At("find", "this program", err)
	}
	state, err := filepath.Abs(a.Settings.State)
	if err != nil {
		return s, err
	}
	p := a.Progress("keep " + session.Plain(r.Name))
	o := conductor.Options{
		Vault: v.Vault, Ledger: v.Ledger, Location: v.Location, State: state, Sources: []string{run.Name + ":" + r.ID.String()}, Command: []string{exe, "stage"},
		Parents: map[id.Guest]id.Point{r.Guest: r.Point}, User: session.User(), Now: a.Now,
		Observe: func(u conductor.Update) { p.At(u.Report.Done, max(u.Report.Total, 1)) },
	}
	o.Host, _ = os.Hostname()
	s, err = bydomain.Run(ctx, v, o, groups)
	p.Done()
	if s.Checkpoint.Size > 0 {
		a.Remember(v)
	}
	if err != nil || s.Outcome == "done" {
		return s, fault.FromFlow(err)
	}
	for _, g := range s.Guests {
		if g.Code != "" {
			return s, &fault.Fault{Code: g.Code, Op: g.Op, Object: g.Object, Err: errors.New(g.Cause), Remedy: g.Remedy}
		}
	}
	return s, fault.At("keep run", id.Short(r.ID), fmt.Errorf("the job ended with %s", s.Outcome))
}
