package catalog

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/catalog/instant"
	"github.com/millrace-backup/millrace/catalog/sets"
	"github.com/millrace-backup/millrace/id"
)

// The two ways in which an argument can fail to name one thing.
var (
	ErrNone      = errors.New("nothing has this name")
	ErrAmbiguous = errors.New("more than one has this name")
)

// ErrShredded: it was there, and nobody can read it any more.
var ErrShredded = errors.New("its keys were destroyed")

// minPrefix is how many hex digits an abbreviated id has at least, so that a
// guest named "a" is never taken for a point.
const minPrefix = 4

// maxCandidates bounds how many are listed in an error.
const maxCandidates = 10

// Point finds the point that arg names: "latest" (the last that the vault's ledger
// has), the first digits of a point's id, GUEST@latest (the last of the guest), or
// GUEST@TIME (the one with the latest time that is not after TIME). A guest is its name or the first digits of its
// id. Times without a zone are in loc; a time means all of the second, minute or
// day that it names, one with a fraction of a second exactly what it says.
// Forgotten points are not found. The error wraps ErrNone or ErrAmbiguous and
// lists what could have been meant, or ErrShredded.
func (s *State) Point(arg string, loc *time.Location) (*Point, error) {
	if arg == "latest" {
		if all := s.Listed(); len(all) > 0 {
			return all[len(all)-1], nil
		}
		return nil, fmt.Errorf("point %q: the vault has no point: %w", arg, ErrNone)
	}
	if at := strings.LastIndexByte(arg, '@'); at >= 0 {
		return s.pointAt(arg, arg[:at], arg[at+1:], loc)
	}
	var found, forgotten []*Point
	for _, p := range s.Points {
		if !abbreviates(arg, p.Point.String()) {
			continue
		}
		if p.Forgotten == 0 {
			found = append(found, p)
		} else {
			forgotten = append(forgotten, p)
		}
	}
	slices.SortFunc(found, byTime)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("point %q: %w: %s", arg, ErrAmbiguous, list(found, describePoint))
	case len(forgotten) > 0 && s.shredded(forgotten[0].Domain) != nil:
		return nil, fmt.Errorf("point %q: %w", arg, s.shredded(forgotten[0].Domain))
	case len(forgotten) > 0:
		return nil, fmt.Errorf("point %q was forgotten: %w", arg, ErrNone)
	}
	return nil, fmt.Errorf("point %q: %w; there are: %s", arg, ErrNone, list(newestFirst(s.Listed()), describePoint))
}

func (s *State) pointAt(arg, guest, when string, loc *time.Location) (*Point, error) {
	g, err := s.Guest(guest)
	if err != nil {
		return nil, fmt.Errorf("point %q: %w", arg, err)
	}
	until := time.Time{} // none
	if when != "latest" {
		if until, err = instant.Parse(when, loc); err != nil {
			return nil, fmt.Errorf("point %q: %w: %w", arg, err, ErrNone)
		}
	}
	if until.IsZero() && len(g.Points) > 0 {
		return g.Points[len(g.Points)-1], nil
	}
	// By the times that the points show, so that a time which was printed finds the
	// point it was printed for, even if the clock was set back after it.
	for _, p := range slices.Backward(slices.SortedFunc(slices.Values(g.Points), byTime)) {
		if !p.Time.Time().After(until) {
			return p, nil
		}
	}
	if all := s.DomainsOf(g.ID); len(all) > 0 && len(g.Points) == 0 && all[0].Shredded != 0 {
		return nil, fmt.Errorf("point %q: %w", arg, s.shredded(all[0].ID))
	}
	return nil, fmt.Errorf("point %q: %s has none: %w; there are: %s", arg, g.Name, ErrNone, list(newestFirst(g.Points), describePoint))
}

// Guest finds the guest that arg names: its name, its name without the extension
// that a guest named by its disk file has, or the first digits of its id. The
// earlier goes before the later.
func (s *State) Guest(arg string) (*Guest, error) {
	var named, shortened, numbered []*Guest
	for _, g := range s.GuestList() {
		switch {
		case g.Name == arg:
			named = append(named, g)
		case strings.TrimSuffix(g.Name, path.Ext(g.Name)) == arg:
			shortened = append(shortened, g)
		}
		if abbreviates(arg, g.ID.String()) {
			numbered = append(numbered, g)
		}
	}
	if len(named) == 0 {
		named = shortened
	}
	if len(named) == 0 {
		named = numbered
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return nil, fmt.Errorf("guest %q: %w; there are: %s", arg, ErrNone, list(s.GuestList(), describeGuest))
	}
	return nil, fmt.Errorf("guest %q: %w: %s", arg, ErrAmbiguous, list(named, describeGuest))
}

// Set finds the backup set of a name.
func (s *State) Set(name string) (*sets.Set, error) {
	if set := s.Sets[name]; set != nil {
		return set, nil
	}
	return nil, fmt.Errorf("set %q: %w; there are: %s", name, ErrNone, list(slices.Sorted(maps.Keys(s.Sets)), strings.Clone))
}

// Job finds the job that arg names: "latest", or the first digits of its id.
func (s *State) Job(arg string) (*Job, error) {
	all := s.JobList()
	if arg == "latest" && len(all) > 0 {
		return all[len(all)-1], nil
	}
	var found []*Job
	for _, j := range all {
		if abbreviates(arg, j.ID.String()) {
			found = append(found, j)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("job %q: %w; there are: %s", arg, ErrNone, list(newestFirst(all), describeJob))
	}
	return nil, fmt.Errorf("job %q: %w: %s", arg, ErrAmbiguous, list(found, describeJob))
}

// abbreviates reports whether arg is the beginning of an id, in any case and
// with or without dashes.
func abbreviates(arg, full string) bool {
	plain := strings.ReplaceAll(strings.ToLower(arg), "-", "")
	return len(plain) >= minPrefix && strings.HasPrefix(strings.ReplaceAll(full, "-", ""), plain)
}

func newestFirst[T any](all []T) []T {
	all = slices.Clone(all)
	slices.Reverse(all)
	return all
}

func list[T any](all []T, describe func(T) string) string {
	if len(all) == 0 {
		return "none"
	}
	var texts []string
	for _, each := range all[:min(len(all), maxCandidates)] {
		texts = append(texts, describe(each))
	}
	if more := len(all) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}

func describePoint(p *Point) string {
	return fmt.Sprintf("%s (%s@%s)", id.Short(p.Point), p.GuestName, p.Time.Time().Format(time.RFC3339))
}

func describeGuest(g *Guest) string { return fmt.Sprintf("%s (%s)", g.Name, id.Short(g.ID)) }

func describeJob(j *Job) string {
	return fmt.Sprintf("%s (%s %s)", j.ID, j.Started.Verb, j.StartedAt.Format(time.RFC3339))
}
