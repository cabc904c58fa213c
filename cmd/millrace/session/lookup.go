package session

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/events"
)

// Listed is a point as the read commands show it.
type Listed struct {
	events.PointCommitted
	Position uint64
	Pinned   bool // by millrace pin, or a reader holds it
	Damaged  bool // a check found damage, and none that read all of it has found it whole since
}

// Past is --at: the vault as it was when the ledger ended at a position.
type Past struct {
	position uint64
	given    func() bool
}

// AddFlag adds --at to a command.
func (p *Past) AddFlag(c *cobra.Command) {
	c.Flags().Uint64Var(&p.position, "at", 0, "look at the vault as it was at this position of the ledger")
	p.given = func() bool { return c.Flags().Changed("at") }
}

// State is what the ledger adds up to, up to and with the position of past if one
// is asked for. It begins with the newest snapshot in the vault, so that its price
// does not grow with the age of the vault.
func (o *Vault) State(ctx context.Context, past Past) (*catalog.State, error) {
	if past.given == nil || !past.given() {
		return o.Now(ctx)
	}
	next, _, _ := o.Ledger.Head()
	if past.position >= next {
		return nil, fault.Usage("--at %d: the ledger ends at position %d", past.position, int64(next)-1)
	}
	upTo := past.position + 1
	s, damaged, err := saved.Load(ctx, o.Vault, o.Ledger, &upTo)
	o.tell(damaged)
	return s, ledgerFault(o.Location, err)
}

// Now is the state of the whole ledger. A command that asks twice gets the same
// state, with what was added meanwhile.
func (o *Vault) Now(ctx context.Context) (*catalog.State, error) {
	if o.state == nil {
		s, damaged, err := saved.Load(ctx, o.Vault, o.Ledger, nil)
		o.tell(damaged)
		if err != nil {
			return nil, ledgerFault(o.Location, err)
		}
		o.state = s
		return s, nil
	}
	err := o.state.CatchUp(o.Ledger.Records(ctx, o.state.Next))
	return o.state, ledgerFault(o.Location, err)
}

// Save leaves a snapshot of the state in the vault for the next reader, if it is
// time. Nothing depends on it, so an error is no more than told.
func (o *Vault) Save(ctx context.Context) {
	s, err := o.Now(ctx)
	if err == nil {
		err = saved.Save(ctx, o.Vault, o.Ledger, s)
	}
	if err != nil && ctx.Err() == nil {
		o.tell([]error{fmt.Errorf("%w; the next command reads more of the ledger", err)})
	}
}

func (o *Vault) tell(errs []error) {
	if o.note == nil {
		return
	}
	for _, err := range errs {
		o.note("millrace: %v", err)
	}
}

// list makes a Listed of a point.
func list(s *catalog.State, p *catalog.Point) Listed {
	l := Listed{PointCommitted: p.PointCommitted, Position: p.Position, Damaged: p.Damaged != 0, Pinned: p.KeptSince != 0}
	for _, pin := range s.Pins {
		for _, each := range pin.Points {
			l.Pinned = l.Pinned || each == p.Point
		}
	}
	return l
}

// Points returns the listed points, in the order of the ledger, of one guest if it is named.
func (o *Vault) Points(ctx context.Context, guest string, past Past) ([]Listed, error) {
	s, err := o.State(ctx, past)
	if err != nil {
		return nil, err
	}
	found := s.Listed()
	if guest != "" {
		g, err := s.Guest(guest)
		if err != nil {
			return nil, fault.At("find guest", guest, err)
		}
		found = g.Points
	}
	var out []Listed
	for _, p := range found {
		out = append(out, list(s, p))
	}
	return out, nil
}

// FindPoint returns the point that a user's word names.
func (o *Vault) FindPoint(ctx context.Context, name string, past Past) (Listed, error) {
	s, err := o.State(ctx, past)
	if err != nil {
		return Listed{}, err
	}
	p, err := s.Point(name, time.Local)
	if err != nil {
		return Listed{}, fault.At("find point", name, err)
	}
	return list(s, p), nil
}

// ChoosePoints returns the points with these names, all if there is none.
func (o *Vault) ChoosePoints(ctx context.Context, names []string) ([]events.PointCommitted, error) {
	s, err := o.State(ctx, Past{})
	if err != nil {
		return nil, err
	}
	var out []events.PointCommitted
	if len(names) == 0 {
		for _, p := range s.Listed() {
			out = append(out, p.PointCommitted)
		}
	}
	for _, name := range names {
		p, err := s.Point(name, time.Local)
		if err != nil {
			return nil, fault.At("find point", name, err)
		}
		out = append(out, p.PointCommitted)
	}
	return out, nil
}
