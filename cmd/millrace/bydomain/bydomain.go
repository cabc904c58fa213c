// Package bydomain backs up guests that are in several dedup domains: one job for each
// domain, one after the other. The workers of a job hold the keys of its domain and no
// others, so that nothing of a guest that is to be shredded can be sealed with another's.
//
// [Plan] says which guests go together and makes the domains; [Run] runs the jobs and sums
// them up as if they were one.
package bydomain

import (
	"context"
	"errors"
	"slices"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor"
	"github.com/millrace-backup/millrace/domain"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
)

// Words are what --domain may be besides empty.
func Words() []string { return []string{domain.Shared, domain.Own} }

// Group is the guests of one job.
type Group struct {
	Domain id.Domain // zero: the vault's default
	Guests []hypervisor.Guest
}

// Plan finds the domain of every guest, made if it is to have one of its own and has none,
// and finishes what a shredding that died has left. want is one of Words, or empty: each
// guest stays where it is. No guests are a group, too.
func Plan(ctx context.Context, a *session.App, v *session.Vault, guests []hypervisor.Guest, want string) ([]Group, error) {
	w, err := Domains(ctx, a, v)
	if err != nil {
		return nil, err
	}
	if err := Sweep(ctx, a, v); err != nil {
		return nil, err
	}
	out := []Group{}
	for _, g := range guests {
		d, err := w.Of(ctx, domain.Guest{ID: g.ID, Name: g.Name}, want)
		if errors.Is(err, domain.ErrOwn) {
			return nil, &fault.Fault{Code: "usage", Op: "read command line", Err: err,
				Remedy: "leave --domain out, and it goes on in its own; after millrace forget --shred it may be given --domain vault"}
		}
		if err != nil {
			return nil, fault.At("choose the domain of guest", g.Name, err)
		}
		at := slices.IndexFunc(out, func(o Group) bool { return o.Domain == d })
		if at < 0 {
			at, out = len(out), append(out, Group{Domain: d})
		}
		out[at].Guests = append(out[at].Guests, g)
	}
	if len(out) == 0 {
		out = append(out, Group{})
	}
	return out, nil
}

// Run runs a job for each group, with o for everything else, and returns what came of all
// of them: the last job's id and place in the ledger, and the sums of what they did. The
// error is the first job's that had one.
func Run(ctx context.Context, v *session.Vault, o conductor.Options, groups []Group) (sum conductor.Summary, first error) {
	failed := o.Failed
	for n, g := range groups {
		o.Guests, o.Domain, o.Failed = g.Guests, g.Domain, failed
		failed = nil // told once
		o.Index = Index(v, g.Domain)
		var err error
		if o.Catalog, err = v.Now(ctx); err != nil {
			return sum, errors.Join(first, err)
		}
		s, err := conductor.Backup(ctx, o)
		if n == 0 {
			sum = s
		} else {
			add(&sum, s)
		}
		if len(groups) > 1 && !s.Job.IsZero() {
			sum.Jobs = append(sum.Jobs, s.Job)
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			for _, left := range groups[n+1:] {
				for _, g := range left.Guests {
					sum.Guests = append(sum.Guests, events.GuestOutcome{Guest: g.ID, Name: g.Name, Outcome: "failed", Code: "interrupted", Op: "back up", Object: g.Name,
						Cause: "interrupted before its job began", Remedy: "run the backup again"})
				}
			}
			break
		}
	}
	return sum, first
}

// add adds what came of a later job.
func add(sum *conductor.Summary, s conductor.Summary) {
	if s.Job.IsZero() || s.Outcome == "" {
		sum.Outcome = "part"
		return
	}
	if sum.Outcome != s.Outcome {
		sum.Outcome = "part"
		if s.Outcome == "interrupted" {
			sum.Outcome = s.Outcome
		}
	}
	f, t := &sum.Finished, s.Finished
	for to, n := range map[*int64]int64{&f.DiskBytes: t.DiskBytes, &f.ReadBytes: t.ReadBytes, &f.ZeroBytes: t.ZeroBytes, &f.UnchangedBytes: t.UnchangedBytes,
		&f.KnownBytes: t.KnownBytes, &f.NewBytes: t.NewBytes, &f.StoredBytes: t.StoredBytes} {
		*to += n
	}
	sum.Job, sum.Position, sum.Stages, sum.Report, sum.SlotsLeft = s.Job, s.Position, s.Stages, s.Report, sum.SlotsLeft+s.SlotsLeft
	sum.Guests = append(slices.Clip(sum.Guests), s.Guests...)
	sum.Duration, sum.CPU = sum.Duration+s.Duration, sum.CPU+s.CPU
	if s.Checkpoint.Size > 0 {
		sum.Checkpoint = s.Checkpoint
	}
}
