package retention

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rule says how many points are kept of each kind; zero is none.
type Rule struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	Zone                                         *time.Location // whose hours and days; nil: UTC
}

// Point is what the rule has to know of a point. Points of one guest only are
// judged together.
type Point struct {
	Time    time.Time // the instant that it shows
	Order   uint64    // when it was made, as the ledger has it: what is newer is told by this alone
	Damaged bool      // see catalog.Point
	Pinned  bool
}

// kind is one of the numbers of a rule.
type kind struct {
	name   string
	keep   int
	bucket func(time.Time) string
}

func (r Rule) kinds() []kind {
	form := func(layout string) func(time.Time) string {
		return func(t time.Time) string { return t.Format(layout) }
	}
	week := func(t time.Time) string {
		y, w := t.ISOWeek()
		return fmt.Sprintf("%04d-W%02d", y, w)
	}
	return []kind{
		// The offset tells the two hours apart that a clock change makes one of.
		{"hourly", r.Hourly, form("2006-01-02 15h -07")}, {"daily", r.Daily, form(time.DateOnly)}, {"weekly", r.Weekly, week},
		{"monthly", r.Monthly, form("2006-01")}, {"yearly", r.Yearly, form("2006")},
	}
}

// Empty reports that no number is above zero.
func (r Rule) Empty() bool {
	return r.Last <= 0 && r.Hourly <= 0 && r.Daily <= 0 && r.Weekly <= 0 && r.Monthly <= 0 && r.Yearly <= 0
}

// Judge says of each point why it is kept, in words; no reason: it is forgotten.
func (r Rule) Judge(points []Point) ([][]string, error) {
	if r.Empty() {
		return nil, ErrEmpty
	}
	zone := r.Zone
	if zone == nil {
		zone = time.UTC
	}
	reasons := make([][]string, len(points))
	because := func(n int, why string) { reasons[n] = append(reasons[n], why) }
	newest := make([]int, len(points)) // numbers of points, newest first
	for n := range newest {
		newest[n] = n
		if points[n].Pinned {
			because(n, "pinned")
		}
	}
	// Clocks are set wrong and back again. A point's time says which hour or day it is of;
	// points of a time to come must not pass for the newest ones for ever.
	slices.SortFunc(newest, func(a, b int) int {
		return cmp.Or(cmp.Compare(points[b].Order, points[a].Order), points[b].Time.Compare(points[a].Time))
	})
	good := slices.DeleteFunc(slices.Clone(newest), func(n int) bool { return points[n].Damaged })
	if len(newest) > 0 {
		because(newest[0], "newest of the guest")
	}
	if len(good) > 0 && len(good) < len(newest) {
		because(good[0], "newest that is not damaged")
	}
	last := good
	if len(last) == 0 {
		last = newest
	}
	for i, n := range last[:min(len(last), max(r.Last, 0))] {
		because(n, fmt.Sprintf("last %d of %d", i+1, r.Last))
	}
	for _, k := range r.kinds() {
		keeper, buckets := map[string]int{}, []string(nil)
		for _, n := range newest {
			b := k.bucket(points[n].Time.In(zone))
			if at, taken := keeper[b]; !taken {
				buckets = append(buckets, b)
				keeper[b] = n
			} else if points[at].Damaged && !points[n].Damaged {
				keeper[b] = n
			}
		}
		// Newest first; a day that has only damaged points takes no good one's place.
		slices.SortStableFunc(buckets, func(a, b string) int {
			x, y := points[keeper[a]], points[keeper[b]]
			if x.Damaged != y.Damaged {
				return map[bool]int{true: 1, false: -1}[x.Damaged]
			}
			return cmp.Or(cmp.Compare(y.Order, x.Order), y.Time.Compare(x.Time))
		})
		for i, b := range buckets[:min(len(buckets), max(k.keep, 0))] {
			because(keeper[b], fmt.Sprintf("%s %d of %d (%s)", k.name, i+1, k.keep, b))
		}
	}
	return reasons, nil
}

// Words is the rule as a fact has it: its numbers above zero, and the zone. FromWords
// makes the rule of it again.
func (r Rule) Words() map[string]string {
	out := map[string]string{}
	for name, n := range r.numbers() {
		if *n > 0 {
			out[name] = strconv.Itoa(*n)
		}
	}
	if r.Zone != nil {
		out["zone"] = r.Zone.String()
	}
	return out
}

// numbers are the rule's, by their names.
func (r *Rule) numbers() map[string]*int {
	return map[string]*int{"last": &r.Last, "hourly": &r.Hourly, "daily": &r.Daily, "weekly": &r.Weekly, "monthly": &r.Monthly, "yearly": &r.Yearly}
}

// FromWords reads a rule. A word that is not known is an error, and no rule at all is
// ErrEmpty: who does not understand a rule must not forget by the rest of it.
func FromWords(words map[string]string) (r Rule, err error) {
	for _, name := range slices.Sorted(maps.Keys(words)) {
		text := words[name]
		if name == "zone" {
			if r.Zone, err = time.LoadLocation(text); err != nil {
				return Rule{}, fmt.Errorf("retention zone %.80q: %w: %w", text, ErrUnclear, err)
			}
			continue
		}
		to := r.numbers()[name]
		n, err := strconv.Atoi(text)
		if to == nil || err != nil || n < 0 {
			return Rule{}, fmt.Errorf("retention %.80q %.80q: it is last, hourly, daily, weekly, monthly or yearly and a number, or zone and a name: %w", name, text, ErrUnclear)
		}
		*to = n
	}
	if r.Empty() {
		return Rule{}, ErrEmpty
	}
	return r, nil
}

// String is the rule in words.
func (r Rule) String() string {
	var out []string
	for _, k := range append([]kind{{name: "last", keep: r.Last}}, r.kinds()...) {
		if k.keep > 0 {
			out = append(out, fmt.Sprintf("%s %d", k.name, k.keep))
		}
	}
	zone := r.Zone
	if zone == nil {
		zone = time.UTC
	}
	return "keep " + strings.Join(out, ", ") + " in " + zone.String()
}
