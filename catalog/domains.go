package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// Domain is a dedup domain that one guest has for itself.
type Domain struct {
	ID       id.Domain
	Keyed    events.DomainKeyed // that made it
	Objects  []uint32           // generations of its objects with keys, as the ledger names them
	Since    uint64             // position of that fact
	Shredded uint64             // position of the fact, 0 while it can be read
	End      events.DomainShredded
}

// Cutter is how cells are cut in the domain.
func (d *Domain) Cutter() chunk.Params {
	i := d.Keyed.Domain
	return chunk.Params{Name: i.Cutter, Min: i.Min, Normal: i.Normal, Max: i.Max, Block: i.Block, ZeroRun: i.ZeroRun}
}

func (s *State) applyDomain(r events.Record) {
	switch f := r.Fact.(type) {
	case events.DomainKeyed:
		known := s.Domains[f.Domain.Domain]
		if known == nil {
			known = &Domain{ID: f.Domain.Domain, Keyed: f, Since: r.Position}
			s.Domains[f.Domain.Domain] = known
		}
		if !slices.Contains(known.Objects, f.Generation) {
			known.Objects = append(known.Objects, f.Generation)
		}
	case events.DomainShredded:
		if d := s.Domains[f.Domain]; d != nil && d.Shredded == 0 {
			d.Shredded, d.End = r.Position, f
		}
	}
}

// DomainsOf lists the domains that a guest has or had for itself, the newest first.
func (s *State) DomainsOf(g id.Guest) (out []*Domain) {
	for d := range maps.Values(s.Domains) {
		if d.Keyed.Guest == g {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *Domain) int {
		return cmp.Or(cmp.Compare(b.Since, a.Since), slices.Compare(b.ID[:], a.ID[:]))
	})
	return out
}

// DomainOf is the domain of its own that a guest is backed up into; nil: none.
func (s *State) DomainOf(g id.Guest) *Domain {
	if all := s.DomainsOf(g); len(all) > 0 && all[0].Shredded == 0 {
		return all[0]
	}
	return nil
}

// shredded says who ended a domain and why; nil if nobody has.
func (s *State) shredded(d id.Domain) error {
	known := s.Domains[d]
	if known == nil || known.Shredded == 0 {
		return nil
	}
	why := ""
	if known.End.Why != "" {
		why = ", because: " + known.End.Why
	}
	return fmt.Errorf("guest %s was shredded by %s at position %d%s: %w", known.Keyed.GuestName, known.End.By, known.Shredded, why, ErrShredded)
}
