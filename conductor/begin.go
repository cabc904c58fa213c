package conductor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/conductor/toolarge"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"go.uber.org/zap"
)

// begin claims the guests: from JobStarted on, other jobs that want one of them
// see that this one has them, and by its heartbeats whether it lives.
//
// A crash before the append leaves a heartbeat that the next job sweeps; after
// it, a claim that ends when the heartbeats have been silent long enough.
func (j *job) begin(ctx context.Context) (err error) {
	o := j.o
	if j.unlock, err = lease.LockFolder(j.folder); err != nil {
		return err
	}
	if j.holder, err = lease.Hold(ctx, o.Vault.Store, j.id, o.Lease); err != nil {
		return flow.VaultFault("write a heartbeat to", o.Location, err)
	}
	number, _ := j.holder.Last()
	kept, failed := toolarge.Split(o.Guests, o.ParcelSize)
	o.Guests, o.Failed = kept, append(slices.Clip(o.Failed), failed...)
	var guests []id.Guest
	for _, g := range o.Guests {
		guests = append(guests, g.ID)
	}
	_, size, _ := o.Ledger.Head()
	j.guard.Job = j.id
	facts := []events.Fact{events.JobStarted{
		Verb: "backup", Host: o.Host, PID: os.Getpid(), Version: o.Version, OS: operatingSystem(), CPUs: o.CPUs, By: o.User, Set: o.Set,
		Sources: o.Sources, Settings: o.settings(), Size: size, Lease: number, Guests: guests,
	}}
	if o.Chosen != nil {
		facts = append(facts, *o.Chosen)
	}
	if j.guard.Next, err = o.Ledger.Append(ctx, j.id, facts, nil, nil); err != nil {
		j.release(ctx)
		return flow.VaultFault("append to the ledger", o.Location, err)
	}
	j.work.Position = j.guard.Next
	return nil
}

// release takes the signs of life away. JobFinished has been written, or could
// not be: then silence says the same a little later.
func (j *job) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if n, err := j.holder.Last(); err != nil {
		j.log.Warn("heartbeats", zap.Uint64("last", n), zap.Error(err))
	}
	j.holder.End(ctx)
}

// prepare waits until it is clear which guests are this job's, and then plans on
// what the vault holds at that moment: a job that had one of them may have
// committed a point until it was fenced or done.
func (j *job) prepare(ctx context.Context) error {
	o := j.o
	claims := lease.Claims{
		Job: j.id, Store: o.Vault.Store, Ledger: o.Ledger, Catalog: o.Catalog, Guard: &j.guard, Times: o.Lease, Waiting: o.Waiting,
		Died: func(other *catalog.Job) bool {
			return other.Started.Host == o.Host && lease.FolderDied(filepath.Join(o.State, "jobs", other.ID.String()))
		},
	}
	var guests []id.Guest
	for _, g := range o.Guests {
		guests = append(guests, g.ID)
	}
	busy, err := claims.Settle(ctx, guests)
	if err != nil {
		return flow.VaultFault("claim guests in", o.Location, err)
	}
	for _, b := range busy {
		j.giveUp(b)
	}
	over := func(other id.Job) bool { known := o.Catalog.Jobs[other]; return known != nil && !known.Open() }
	if err := lease.Sweep(ctx, o.Vault.Store, over); err != nil {
		j.log.Info("old heartbeats stay", zap.Error(err))
	}
	if len(o.Guests) == 0 {
		return nil
	}
	// From the job's first fact on, who shreds is seen by the guard; this is for who did
	// it before that.
	if d := o.Catalog.Domains[o.domain()]; d != nil && d.Shredded != 0 {
		return flow.VaultFault("begin to back up", o.Guests[0].Name, fmt.Errorf("by %s at position %d: %w", d.End.By, d.Shredded, ledger.ErrShredded))
	}
	if j.index, err = known.Refresh(ctx, o.Vault, o.Catalog, o.domain(), o.Index); err != nil {
		return flow.VaultFault("index the chunks of", o.Location, err)
	}
	j.before = j.successes()
	j.plan(ctx)
	var gone []string
	if j.work.Index, gone, err = j.index.Link(filepath.Join(j.folder, "index")); err != nil {
		return err
	}
	if len(gone) > 0 {
		j.log.Warn("chunk index files are gone", zap.Strings("files", gone))
	}
	return nil
}

// giveUp leaves a guest to the job that has it.
func (j *job) giveUp(b lease.Busy) {
	at := slices.IndexFunc(j.o.Guests, func(g hypervisor.Guest) bool { return g.ID == b.Guest })
	g, s := j.o.Guests[at], b.Holder.Started
	j.o.Guests = slices.Delete(slices.Clone(j.o.Guests), at, at+1)
	j.o.Failed = append(j.o.Failed, events.GuestOutcome{
		Guest: g.ID, Name: g.Name, Outcome: "failed", Code: "guest-busy", Op: "claim guest", Object: g.Name,
		Cause:  fmt.Sprintf("job %s on host %s (process %d) has been backing it up since %s", b.Holder.ID, s.Host, s.PID, b.Holder.StartedAt.UTC().Format(time.RFC3339)),
		Remedy: "wait for that job, or stop it; if its host has died, its claim ends by itself within a minute",
	})
	j.log.Info("guest is busy", zap.String("guest", g.Name), zap.Stringer("holder", b.Holder.ID))
}

// reason is why the job stops: that it was interrupted comes before what came of it.
func (j *job) reason(ctx context.Context, err error) *flow.Fault {
	if ctx.Err() == nil {
		return flow.AsFault(err, "conductor")
	}
	return &flow.Fault{
		Class: flow.Halt, Code: "interrupted", Op: "back up", Object: j.o.Location, Cause: "interrupted",
		Remedy: "run the job again; what was stored is found again", Err: ctx.Err(),
	}
}
