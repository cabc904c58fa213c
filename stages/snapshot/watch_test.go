package snapshot

import (
	"testing"
	"time"
)

// TestGovernor: too long a wait halves the rate, calm raises it to what the job has.
func TestGovernor(t *testing.T) {
	const slow, quick = 60 * time.Millisecond, 5 * time.Millisecond
	for name, c := range map[string]struct {
		base int64
		says []time.Duration
		want []int64
	}{
		"no limit, all is well":   {0, []time.Duration{quick, 0, quick}, []int64{0, 0, 0}},
		"halved, and no less":     {4 << 20, []time.Duration{slow, slow, slow, slow}, []int64{2 << 20, 1 << 20, 1 << 20, 1 << 20}},
		"slow, then calm":         {0, []time.Duration{slow, slow, quick, quick, quick}, []int64{64 << 20, 32 << 20, 32 << 20, 48 << 20, 72 << 20}},
		"back to the job's own":   {40 << 20, []time.Duration{slow, quick, quick, quick, quick}, []int64{20 << 20, 20 << 20, 30 << 20, 40 << 20, 40 << 20}},
		"calm that does not last": {0, []time.Duration{slow, quick, slow, quick, quick}, []int64{64 << 20, 64 << 20, 32 << 20, 32 << 20, 48 << 20}},
	} {
		g := governor{limit: 50 * time.Millisecond, base: c.base, rate: c.base}
		for i, mean := range c.says {
			was := g.rate
			if rate, changed := g.look(mean); rate != c.want[i] || changed != (rate != was) {
				t.Errorf("%s: look %d: %d, %v, want %d", name, i, rate, changed, c.want[i])
			}
		}
	}
	g := governor{limit: 50 * time.Millisecond}
	g.look(slow)
	for range 20 {
		g.look(quick)
	}
	if g.rate != 0 {
		t.Errorf("after much calm there is a limit of %d", g.rate)
	}
}
