// Package sets folds what the ledger says of backup sets: how each was last defined, and
// which guests its last run protected.
//
// A set is what its newest [events.SetDefined] says. What its last run protected
// outlives a new definition, so that the next run can say what has changed, but not a
// removal: a set that is defined after one begins anew.
package sets

import (
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// All are the sets of a vault by name, without those that were removed.
type All map[string]*Set

// Set is a backup set as it was last defined. The catalog keeps it in this form.
type Set struct {
	Fact      events.SetDefined    `json:"fact"`
	Position  uint64               `json:"position"` // of the definition
	DefinedAt events.Micros        `json:"defined_at"`
	Ran       id.Job               `json:"ran"`    // the job that ran last
	RanIn     uint64               `json:"ran_in"` // position of its GuestsSelected, 0 if none ran
	Guests    []events.GuestChoice `json:"guests"` // what it protected
}

// Apply takes the next fact of the ledger; those about other things change nothing.
func (a All) Apply(r events.Record) {
	switch f := r.Fact.(type) {
	case events.SetDefined:
		fresh := &Set{Fact: f, Position: r.Position, DefinedAt: events.At(r.Time)}
		if before := a[f.Set]; before != nil {
			fresh.Ran, fresh.RanIn, fresh.Guests = before.Ran, before.RanIn, before.Guests
		}
		if a[f.Set] = fresh; f.Removed {
			delete(a, f.Set)
		}
	case events.GuestsSelected:
		known := a[f.Set]
		if known == nil {
			return
		}
		known.Ran, known.RanIn, known.Guests = r.Job, r.Position, nil
		for _, g := range f.Guests {
			if g.Selected {
				known.Guests = append(known.Guests, g)
			}
		}
	}
}
