package meter

import "time"

// Load is how the workers of a stage spent some time, all together.
type Load struct {
	Stage                  string
	Workers                int
	Busy, Starved, Blocked time.Duration
}

// Time is all of it.
func (l Load) Time() time.Duration { return l.Busy + l.Starved + l.Blocked }

// Share is the part of the time that a is of it, 0 to 1; 0 if there was none.
func (l Load) Share(a time.Duration) float64 {
	if l.Time() <= 0 {
		return 0
	}
	return float64(a) / float64(l.Time())
}

// Limiting reports whether the stage is what the others wait for. Below half of
// its time none is: it waits for others itself.
func (l Load) Limiting() bool { return l.Share(l.Busy) >= 0.5 }

// Slowest is the load with the largest share of busy time, the first of those that
// are equal; the zero Load if no stage has spent any.
func Slowest(loads []Load) (found Load) {
	for _, l := range loads {
		if l.Time() > 0 && (found.Stage == "" || l.Share(l.Busy) > found.Share(found.Busy)) {
			found = l
		}
	}
	return found
}
