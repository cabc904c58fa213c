package domain

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault/apart"
)

// Done is what came of a Shred.
type Done struct {
	Points  []*catalog.Point // forgotten with it
	Shared  []*catalog.Point // of these: in the vault's domain, so not shredded but forgotten
	Domains []id.Domain      // whose keys are destroyed
	Objects int              // that were deleted
	Again   bool             // it was shredded before, and this only made sure
}

// Shred forgets all points of a guest and destroys the keys of all domains that it has
// or had for itself. ErrShared if it has none, or, unless forced, points in the vault's
// domain besides, which are only forgotten; ErrKept if a point is pinned, unless forced.
//
// It may be called again, and is to be after an error: a crash before the segment leaves
// all as it was; after it, points that are forgotten and keys that the next Shred or
// Sweep destroys.
func (w Work) Shred(ctx context.Context, g *catalog.Guest, force bool, why string) (done Done, err error) {
	for range maxTries {
		if done, err = w.decide(ctx, g, force, why); !errors.Is(err, ErrOvertaken) {
			break
		}
		if err := w.State.CatchUp(w.Ledger.Records(ctx, w.State.Next)); err != nil {
			return done, err
		}
	}
	if err != nil {
		return done, err
	}
	// The decision is durable and signed. A crash from here on leaves keys that the next
	// command destroys; nothing lists what they open.
	for _, d := range done.Domains {
		n, err := apart.Delete(ctx, w.Vault.Store, w.Vault.Keys, d)
		done.Objects += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Weigh says what Shred would do.
func (w Work) Weigh(ctx context.Context, g *catalog.Guest, force bool, why string) (Done, error) {
	w.Record = func(context.Context, *ledger.Guard, []ledger.ObjectRef, []ledger.ObjectRef, ...events.Fact) error {
		return nil
	}
	return w.decide(ctx, g, force, why)
}

// decide appends that the guest is shredded, unless that has been said.
func (w Work) decide(ctx context.Context, g *catalog.Guest, force bool, why string) (done Done, err error) {
	var facts []events.Fact
	var out []ledger.ObjectRef
	for _, d := range w.State.DomainsOf(g.ID) {
		done.Domains = append(done.Domains, d.ID)
		if d.Shredded != 0 {
			continue
		}
		points := 0
		for _, p := range g.Points {
			if p.Domain == d.ID {
				points++
			}
		}
		facts = append(facts, events.DomainShredded{Guest: g.ID, Domain: d.ID, Points: uint32(points), Why: why, By: w.By})
		retired, err := w.objects(ctx, d)
		if err != nil {
			return done, err
		}
		out = append(out, retired...)
	}
	if len(done.Domains) == 0 {
		return done, fmt.Errorf("shred guest %s: %w", g.Name, ErrShared)
	}
	if len(facts) == 0 && len(g.Points) > 0 {
		return done, fmt.Errorf("guest %s was shredded at position %d, and its %d points since are in the vault's domain: %w",
			g.Name, w.State.DomainsOf(g.ID)[0].Shredded, len(g.Points), ErrShared)
	}
	if len(facts) == 0 {
		done.Again = true
		return done, nil
	}
	for _, p := range g.Points {
		own := slices.Contains(done.Domains, p.Domain)
		switch {
		case p.KeptSince != 0 && !force:
			return done, fmt.Errorf("point %s of guest %s, by %s: %w", id.Short(p.Point), g.Name, p.Kept.By, ErrKept)
		case !own && !force:
			return done, fmt.Errorf("point %s of guest %s is in the vault's domain: %w", id.Short(p.Point), g.Name, ErrShared)
		case !own:
			done.Shared = append(done.Shared, p)
		}
		done.Points = append(done.Points, p)
		facts = append(facts, events.PointForgotten{Point: p.Point, Guest: g.ID, Rule: "shredded", Why: why, By: w.By})
	}
	done.Points = slices.Clone(done.Points) // the fold takes them from the guest
	return done, w.Record(ctx, w.guard(g.ID), nil, out, facts...)
}

// objects are all objects with keys of a domain, those that the ledger names and those
// that are there.
func (w Work) objects(ctx context.Context, d *catalog.Domain) (out []ledger.ObjectRef, err error) {
	var names []string
	for _, generation := range d.Objects {
		names = append(names, apart.Name(d.ID, int(generation)))
	}
	for e, err := range w.Vault.Store.List(ctx, apart.Folder(d.ID)) {
		if err != nil {
			return nil, fmt.Errorf("list keys of domain %s: %w", d.ID, err)
		}
		names = append(names, e.Name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		out = append(out, ledger.ObjectRef{Name: name})
	}
	return out, nil
}

// Sweep destroys keys of domains that the state says are shredded, which a Shred that
// died has left or somebody has put back, and says how many objects that was.
func (w Work) Sweep(ctx context.Context) (n int, err error) {
	left := map[id.Domain]bool{}
	for e, err := range w.Vault.Store.List(ctx, apart.Prefix) {
		if err != nil {
			return 0, fmt.Errorf("list keys of domains: %w", err)
		}
		if d, ok := apart.DomainOf(e.Name); ok && w.State.Domains[d] != nil && w.State.Domains[d].Shredded != 0 {
			left[d] = true
		}
	}
	for d := range left {
		gone, err := apart.Delete(ctx, w.Vault.Store, w.Vault.Keys, d)
		n += gone
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
