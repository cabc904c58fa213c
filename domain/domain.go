// Package domain says in which dedup domain a guest is backed up, gives guests domains of
// their own, and ends them.
//
// Guests share the vault's default domain, unless [Work.Of] is asked for one of their
// own; a guest keeps that from then on. The keys of such a domain lie in objects of the
// vault (package vault/apart), whose deletion leaves what was sealed unreadable to
// everyone, with whatever password: [Work.Shred] is that. [Work.Sweep] finishes what a
// Shred that died had decided, and every command that writes to a vault calls it.
//
// # Order
//
// A domain is made: object durable → segment with DomainKeyed, which brings it in → job.
// A domain is ended: segment with DomainShredded and PointForgotten, which retires its
// objects → objects deleted → caches of this host removed. Both segments are guarded: of
// two hosts that make a domain for one guest, one takes the other's, and a point that
// is committed between the decision and the segment is seen before the keys go. A job
// that was backing the guest up may not commit afterwards (package catalog/trust).
//
// The package starts no job, and prints nothing.
package domain

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/genesis"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/apart"
)

// What a backup may ask for.
const (
	Keep   = ""      // the domain that the guest has
	Shared = "vault" // the vault's default domain
	Own    = "guest" // one of its own
)

// The errors a caller decides by.
var (
	// ErrOwn: the guest has a domain of its own, and what is asked for needs that it has none.
	ErrOwn = errors.New("the guest has a domain of its own")
	// ErrShared: the guest is in the vault's domain, whose keys are needed for others.
	ErrShared = errors.New("the guest shares its keys with others")
	// ErrKept: a point of the guest is pinned.
	ErrKept = errors.New("a point is pinned")
	// ErrOvertaken: others say things of the guest faster than can be decided.
	ErrOvertaken = errors.New("points or domains of the guest have changed meanwhile")
)

// maxTries bounds how often something is decided anew.
const maxTries = 20

// Record appends facts that bring objects in or retire them, under a guard, and signs.
type Record func(ctx context.Context, g *ledger.Guard, in, out []ledger.ObjectRef, facts ...events.Fact) error

// Work is what the functions work with.
type Work struct {
	Vault  *vault.Vault
	State  *catalog.State // of the whole ledger; brought up to date when others were faster
	Ledger *ledger.Ledger
	Record Record
	By     string // OS user, for facts
}

// Guest is whose domain it is about.
type Guest struct {
	ID   id.Guest
	Name string
}

// Of returns the domain that a guest is backed up into, made if it is to have one of its
// own and has none, and with a fresh key if the vault's were rotated since its last.
// Zero: the vault's default. ErrOwn if Shared is asked for and it has its own.
func (w Work) Of(ctx context.Context, g Guest, want string) (d id.Domain, err error) {
	for range maxTries {
		var fact events.DomainKeyed
		own, had := w.State.DomainOf(g.ID), len(w.State.DomainsOf(g.ID)) > 0
		switch {
		case own != nil && want == Shared:
			return d, fmt.Errorf("guest %s since position %d: %w", g.Name, own.Since, ErrOwn)
		case own != nil:
			fact, err = w.renew(ctx, own)
			if err != nil || fact.Guest.IsZero() {
				return own.ID, err
			}
		case want == Own:
			fact = w.fresh("asked")
		case want == Keep && had: // who wanted it once goes on wanting it
			fact = w.fresh("shredded")
		default:
			return d, nil
		}
		fact.Guest, fact.GuestName, fact.By = g.ID, g.Name, w.By
		if err = w.key(ctx, own, fact); !errors.Is(err, ErrOvertaken) {
			return fact.Domain.Domain, err
		}
		if err := w.State.CatchUp(w.Ledger.Records(ctx, w.State.Next)); err != nil {
			return d, err
		}
	}
	return d, fmt.Errorf("choose the domain of guest %s: %w", g.Name, err)
}

// fresh is the fact of a new domain, which cuts as the vault's does.
func (w Work) fresh(why string) events.DomainKeyed {
	c, _ := w.Vault.Config.Domain(w.Vault.Config.DefaultDomain)
	return events.DomainKeyed{Domain: genesis.Domain(vault.Domain{ID: id.NewDomain(), Cutter: c.Cutter}), Generation: uint32(w.Vault.Keys.Generation()), Why: why}
}

// renew gives a domain a fresh data key if the vault's keys are younger than its newest.
// The fact is zero if there is nothing to be said.
//
// A crash before the fact leaves an object that no segment names: the next backup finds
// it, and says it.
func (w Work) renew(ctx context.Context, own *catalog.Domain) (none events.DomainKeyed, err error) {
	if _, err := apart.Add(ctx, w.Vault.Store, w.Vault.Keys, own.ID); err != nil {
		return none, err
	}
	now := uint32(w.Vault.Keys.Generation())
	for _, told := range own.Objects {
		if told >= now {
			return none, nil
		}
	}
	return events.DomainKeyed{Guest: own.Keyed.Guest, Domain: own.Keyed.Domain, Generation: now, Why: "rotated"}, nil
}

// key stores the object of a new domain, unless own has it already, and says so.
func (w Work) key(ctx context.Context, own *catalog.Domain, f events.DomainKeyed) error {
	d := f.Domain.Domain
	name := apart.Name(d, int(f.Generation))
	if own == nil {
		if _, err := apart.Make(ctx, w.Vault.Store, w.Vault.Keys, d); err != nil {
			return err
		}
	}
	ref, err := genesis.Ref(ctx, w.Vault.Store, name)
	if err != nil {
		return err
	}
	err = w.Record(ctx, w.guard(f.Guest), []ledger.ObjectRef{ref}, nil, f)
	if own == nil && errors.Is(err, ErrOvertaken) {
		// Nothing is sealed in it, and nobody knows of it.
		_, gone := apart.Delete(ctx, w.Vault.Store, w.Vault.Keys, d)
		return errors.Join(err, gone)
	}
	return err
}

// guard refuses to append when somebody says something of the guest that a decision
// made on the state may depend on.
func (w Work) guard(g id.Guest) *ledger.Guard {
	return &ledger.Guard{Next: w.State.Next, Check: func(r events.Record) error {
		var of id.Guest
		switch f := r.Fact.(type) {
		case events.DomainKeyed:
			of = f.Guest
		case events.DomainShredded:
			of = f.Guest
		case events.PointCommitted:
			of = f.Guest
		case events.PointForgotten:
			of = f.Guest
		case events.PointPinned:
			of = f.Guest
		case events.PointUnpinned:
			of = f.Guest
		}
		if of == g {
			return ErrOvertaken
		}
		return nil
	}}
}
