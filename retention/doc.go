// Package retention is the rule by which points are kept or forgotten.
//
// [Rule.Judge] takes the points of one guest and says of each why it is kept, or
// that nothing keeps it. The rule is the one that operators know from other tools: of
// each of the newest N hours, days, weeks, months or years in which there is a point,
// the newest point is kept, and so are the N newest points of all.
//
// # Words
//
// A *bucket* is an hour, day, week (ISO 8601, Monday first), month or year in a given
// time zone. Buckets without a point do not count: daily 7 keeps seven points, also
// of a machine that is backed up on Mondays only. A point is *good* unless its
// last check found damage. Of a bucket the newest good point is kept; a damaged one
// only where there is no good one. The same holds for "last": damaged points
// do not count as long as there are good ones.
//
// # Guarantees
//
// What is pinned is kept, and uses up nobody's place: a bucket whose newest point is
// pinned is that point's. The newest point of a guest, and its newest good point, are
// always kept. Jobs that failed have no point and so push none out. A rule that
// keeps nothing is [ErrEmpty]: it would forget everything but one. Judging is a pure function; who
// judges again after forgetting, at the same hour, forgets nothing more. Points from
// the future (clocks are set back) count as what their time says.
package retention

import "errors"

// The errors a caller decides by.
var (
	// ErrEmpty: the rule has no number above zero.
	ErrEmpty = errors.New("the rule keeps nothing")
	// ErrUnclear: the words of a rule make no sense to this program. A later one may
	// have written them.
	ErrUnclear = errors.New("not a rule that this version understands")
)
