package keep

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/bydomain"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/domain"
	"github.com/millrace-backup/millrace/id"
)

// shreddedJSON is what forget --shred says.
type shreddedJSON struct {
	Type      string      `json:"type"`
	Guest     id.Guest    `json:"guest"`
	GuestName string      `json:"guest_name"`
	DryRun    bool        `json:"dry_run"`
	Forgotten []id.Point  `json:"forgotten"`
	Shared    []id.Point  `json:"only_forgotten"` // of these: in the vault's domain, so that prune alone ends them
	Domains   []id.Domain `json:"domains"`        // whose keys are destroyed
	Again     bool        `json:"again"`          // it was shredded before, and this made sure
}

// shred forgets all points of a guest and destroys its keys.
func (a verb) shred(ctx context.Context, o forgetOptions) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	w, err := bydomain.Domains(ctx, a.App, v)
	if err != nil {
		return err
	}
	g, err := w.State.Guest(o.shred)
	if err != nil {
		return fault.At("find guest", o.shred, err)
	}
	if err := bydomain.Sweep(ctx, a.App, v); err != nil && !o.dryRun {
		return err
	}
	if err := quiet(ctx, v, w.State, g, o.force); err != nil {
		return err
	}
	do := w.Shred
	if o.dryRun {
		do = w.Weigh
	}
	name := g.Name
	done, err := do(ctx, g, o.force, o.why)
	switch {
	case errors.Is(err, domain.ErrKept):
		return &fault.Fault{Code: "kept", Op: "shred guest", Object: name, Err: err, Remedy: "unpin the point first, or say --force if it really is to go"}
	case err != nil:
		return fault.At("shred guest", name, err)
	}
	if !o.dryRun {
		if err := bydomain.Forget(v, g.ID, done.Domains...); err != nil {
			return err
		}
	}
	a.printShredded(g, done, o.dryRun)
	return nil
}

// quiet refuses to shred a guest that a job is backing up, unless by force: the job could
// commit nothing more, and fail.
func quiet(ctx context.Context, v *session.Vault, s *catalog.State, g *catalog.Guest, force bool) error {
	for _, j := range s.JobList() {
		if force || !j.Open() || !slices.Contains(j.Started.Guests, g.ID) {
			continue
		}
		beats, err := lease.Newest(ctx, v.Store, j.ID)
		if err != nil {
			return fault.At("look for heartbeats in vault", v.Location, err)
		}
		if beats > 0 {
			return &fault.Fault{Code: "guest-busy", Op: "shred guest", Object: g.Name, Err: fmt.Errorf("job %s on host %s is backing it up", id.Short(j.ID), j.Started.Host),
				Remedy: "wait for that job or stop it; with --force it is left to fail"}
		}
	}
	return nil
}

func (a verb) printShredded(g *catalog.Guest, done domain.Done, dry bool) {
	out := shreddedJSON{Type: "summary", Guest: g.ID, GuestName: g.Name, DryRun: dry, Forgotten: []id.Point{}, Shared: []id.Point{}, Domains: done.Domains, Again: done.Again}
	for _, p := range done.Points {
		out.Forgotten = append(out.Forgotten, p.Point)
	}
	for _, p := range done.Shared {
		out.Shared = append(out.Shared, p.Point)
	}
	if a.Settings.JSON {
		a.PrintJSON(out)
		return
	}
	name := session.Plain(g.Name)
	switch {
	case dry:
		a.Note("dry run: %d points of %s would be forgotten and its keys destroyed", len(done.Points), name)
	case done.Again:
		a.Note("%s was shredded before: no keys of it are in the vault, nor anything of it on this host", name)
	default:
		a.Note("%s is shredded: %d points forgotten, its keys destroyed; what is in the vault of its disks nobody can read, and millrace prune gives back the space", name, len(done.Points))
		a.Note("copies of the vault that were made before, backups of its disk among them, still hold the keys")
	}
	if len(done.Shared) > 0 {
		a.Note("%d of the points were in the domain that all guests share: what they alone need is readable with the vault's password until millrace prune has deleted it", len(done.Shared))
	}
}
