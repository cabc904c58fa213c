package lease

import "time"

// Verdict is what a watch knows of a job.
type Verdict int

// The verdicts.
const (
	Undecided Verdict = iota
	Alive
	Dead
)

// Watch tells whether a job lives by its heartbeats. The zero Watch has seen
// nothing. It is for one goroutine.
type Watch struct {
	Times Times

	looked bool
	last   uint64
	at     time.Time
	silent time.Duration
}

// Look takes in the highest number seen just now, at the time at, which has a
// monotonic reading. One that grew since the first look is life; for ever: a
// claim is decided once.
//
// Silence is the sum of what lies between looks, and a gap counts as two looks
// at most: if the looker itself was stopped, or its whole machine was, then so
// may the job have been, and it is given its time to come back.
func (w *Watch) Look(at time.Time, n uint64) Verdict {
	t := w.Times.Or()
	switch {
	case !w.looked:
		w.looked, w.last, w.at = true, n, at
		return Undecided
	case n > w.last:
		return Alive
	}
	w.silent += min(max(at.Sub(w.at), 0), 2*t.Look)
	w.at = at
	if w.silent >= t.Silence {
		return Dead
	}
	return Undecided
}

// Last is the highest number seen at the first look, and how long it has stayed.
func (w *Watch) Last() (n uint64, silent time.Duration) { return w.last, w.silent }
