package selection

import (
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// Candidate is a guest that a source listed.
type Candidate struct {
	Guest  id.Guest
	Name   string
	Source string // where its driver finds it again
	Tags   []string
	// Cause is why it could not be looked at; its id and name are then what is known
	// from elsewhere, and Certain says that they are right.
	Cause   string
	Certain bool
}

// MaxCandidates is how many guests a set may look at: the list is one fact.
const MaxCandidates = 4096

// Resolved is what a definition makes of its candidates.
type Resolved struct {
	Fact events.GuestsSelected // but for Sources and Outdone; Guests in the order of the candidates
	// Unsettled are the candidates, by number, that could not be looked at and of which
	// nobody can say that the set does not mean them.
	Unsettled []int
	// Idle are the selectors that took no candidate.
	Idle []Idle
}

// Idle is a selector that took nothing. Guest is the guest it names, if it names one.
type Idle struct {
	Selector string
	Guest    id.Guest
}

// Resolve chooses. before is what the last run of the set protected, ran whether
// there was one.
func (d *Definition) Resolve(candidates []Candidate, before []events.GuestChoice, ran bool) Resolved {
	r := Resolved{Fact: events.GuestsSelected{Set: d.Set, Defined: d.Position}}
	was, is := map[id.Guest]bool{}, map[id.Guest]bool{}
	for _, g := range before {
		was[g.Guest] = true
	}
	took := make([]bool, len(d.includes))
	for n := range candidates {
		c := &candidates[n]
		is[c.Guest] = true
		choice := events.GuestChoice{Guest: c.Guest, Name: c.Name, Source: c.Source, Cause: c.Cause}
		choice.Selected = len(d.includes) == 0
		for i := range d.includes {
			if d.includes[i].takes(c) {
				took[i] = true
				if !choice.Selected {
					choice.Selected, choice.By = true, d.includes[i].text
				}
			}
		}
		out := slices.IndexFunc(d.excludes, func(s selector) bool { return s.takes(c) })
		if out >= 0 {
			choice.Selected, choice.By = false, d.excludes[out].text
		}
		if c.Cause != "" && !choice.Selected && out < 0 && !c.Certain {
			r.Unsettled = append(r.Unsettled, n)
		}
		choice.New = ran && choice.Selected && !was[c.Guest]
		r.Fact.Guests = append(r.Fact.Guests, choice)
	}
	for n, s := range d.includes {
		if !took[n] {
			r.Idle = append(r.Idle, Idle{s.text, s.guest})
		}
	}
	for _, g := range before {
		if !is[g.Guest] {
			g.Selected, g.New = false, false
			r.Fact.Gone = append(r.Fact.Gone, g)
		}
	}
	return r
}

// maxTold bounds how many guests of a kind Tell lists.
const maxTold = 200

// Tell says what was selected and why, a line each, for people. Names are as they came.
func Tell(f events.GuestsSelected) (out []string) {
	for _, s := range f.Sources {
		line := fmt.Sprintf("%s listed %d guests", s.Source, s.Guests)
		if s.Passed > 0 {
			line += fmt.Sprintf(" and %d entries that are none", s.Passed)
		}
		for _, t := range s.Tags {
			line += " tag:" + t
		}
		if s.Cause != "" {
			line = fmt.Sprintf("%s could not be listed: %s", s.Source, s.Cause)
		}
		out = append(out, line)
	}
	tell := func(all []events.GuestChoice, line func(events.GuestChoice) string) {
		told := 0
		for _, g := range all {
			l := line(g)
			if l == "" {
				continue
			}
			if told++; told <= maxTold {
				out = append(out, l)
			}
		}
		if told > maxTold {
			out = append(out, fmt.Sprintf("and %d more", told-maxTold))
		}
	}
	tell(f.Guests, func(g events.GuestChoice) string {
		if !g.Selected {
			return ""
		}
		line := fmt.Sprintf("protects %s (%s), by %s", g.Name, g.Guest, g.By)
		if g.By == "" {
			line = fmt.Sprintf("protects %s (%s), as it takes all", g.Name, g.Guest)
		}
		if g.New {
			line += "; not in the run before"
		}
		return line + unreadable(g)
	})
	tell(f.Guests, func(g events.GuestChoice) string {
		switch {
		case g.Selected:
			return ""
		case g.By == "":
			return fmt.Sprintf("leaves out %s (%s): no selector takes it", g.Name, g.Guest) + unreadable(g)
		}
		return fmt.Sprintf("leaves out %s (%s): excluded by %s", g.Name, g.Guest, g.By) + unreadable(g)
	})
	tell(f.Gone, func(g events.GuestChoice) string {
		return fmt.Sprintf("did not find %s (%s), which the run before protected at %s", g.Name, g.Guest, g.Source)
	})
	return out
}

func unreadable(g events.GuestChoice) string {
	if g.Cause == "" {
		return ""
	}
	return "; it could not be looked at: " + g.Cause
}

// Told is Tell of what the facts of a job say was selected, and what of the set's policy
// did not hold.
func Told(facts []events.Record) (out []string) {
	for _, r := range facts {
		if f, ok := r.Fact.(events.GuestsSelected); ok {
			out = append(out, Tell(f)...)
			for _, name := range slices.Sorted(maps.Keys(f.Outdone)) {
				out = append(out, fmt.Sprintf("says %s %s, and the command line said otherwise", name, f.Outdone[name]))
			}
		}
	}
	return out
}

// Sentence says what a fact about sets says, in a line; of another it says the kind.
func Sentence(r events.Record) string {
	switch f := r.Fact.(type) {
	case events.SetDefined:
		if f.Removed {
			return fmt.Sprintf("set %s removed by %s", f.Set, f.By)
		}
		return fmt.Sprintf("set %s defined by %s: %d sources, %d selectors", f.Set, f.By, len(f.Sources), len(f.Selectors))
	case events.GuestsSelected:
		chosen, fresh := 0, 0
		for _, g := range f.Guests {
			if g.Selected {
				chosen++
			}
			if g.New {
				fresh++
			}
		}
		return fmt.Sprintf("set %s, as position %d defines it, protects %d of %d guests, %d of them new; %d are gone", f.Set, f.Defined, chosen, len(f.Guests), fresh, len(f.Gone))
	}
	return r.Kind
}
