package snapshot

import (
	"context"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/hypervisor"
)

const (
	lookEvery   = 500 * time.Millisecond
	fewRequests = 8         // of a guest, below which an average says nothing
	firstRate   = 64 << 20  // bytes a second, of a reader that had no limit
	leastRate   = 1 << 20   // a job must end some day
	enoughRate  = 512 << 20 // from here on there need be no limit
	calmBefore  = 2         // looks, before a reader may be faster again
)

// governor finds the rate at which guests do not notice that they are read.
type governor struct {
	limit time.Duration // what a guest's request may take
	base  int64         // the job's own rate, 0: none
	rate  int64         // as it is now, 0: none
	calm  int           // looks in a row at which all was well
}

// look takes in how long guests' requests have taken, on average, and returns the rate
// from now on. It halves it as long as they take too long, and raises it slowly again.
func (g *governor) look(mean time.Duration) (rate int64, changed bool) {
	was := g.rate
	switch {
	case mean > g.limit:
		g.calm = 0
		switch {
		case g.rate != g.base:
			g.rate /= 2
		case g.base == 0:
			g.rate = firstRate
		default:
			g.rate = g.base / 2
		}
		g.rate = max(g.rate, leastRate)
	case g.rate != g.base:
		if g.calm++; g.calm >= calmBefore {
			g.rate += g.rate / 2
		}
		if g.base > 0 && g.rate >= g.base || g.base == 0 && g.rate >= enoughRate {
			g.rate = g.base
		}
	}
	return g.rate, g.rate != was
}

// watch slows the readers of the job down while a guest that is backed up waits longer for
// its disks than the job's settings allow. Where nothing can be told of guests it does
// nothing; what goes wrong with it fails no backup.
func (s *stage) watch(ctx context.Context) {
	w := &s.w.Config.Work
	if w.GuestLatency <= 0 {
		return
	}
	g := governor{limit: w.GuestLatency, base: w.Limits[flow.Reader], rate: w.Limits[flow.Reader]}
	var p *pace.Pace
	defer func() {
		if p != nil {
			_ = p.Set(g.base) // readers of other guests go on
			_ = p.Close()
		}
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.w.Draining():
			return
		case <-tick.C:
		}
		worst := s.slowest(ctx, g.rate != g.base)
		rate, changed := g.look(worst)
		if !changed {
			continue
		}
		if p == nil {
			var err error
			if p, err = pace.Open(pace.Path(s.w.Config.Folder, flow.Reader), g.base); err != nil {
				return
			}
		}
		if p.Set(rate) != nil {
			return
		}
	}
}

// slowest is the longest that the requests of a guest take now, on average, and keeps what
// is to be said of it. Slowed: since the last look the readers were held back.
func (s *stage) slowest(ctx context.Context, slowed bool) (worst time.Duration) {
	s.mu.Lock()
	var holds []*hold
	for _, h := range s.holds {
		if !h.over.Load() {
			holds = append(holds, h)
		}
	}
	s.mu.Unlock()
	for _, h := range holds {
		watcher, ok := h.frozen.Hold.(hypervisor.Watcher)
		if !ok {
			continue
		}
		looking, cancel := context.WithTimeout(ctx, lookEvery)
		mean, requests, err := watcher.Latency(looking)
		cancel()
		if err != nil || requests < fewRequests {
			mean = 0
		}
		h.worst.Store(max(h.worst.Load(), int64(mean)))
		if slowed {
			h.slowed.Add(int64(lookEvery))
		}
		worst = max(worst, mean)
	}
	return worst
}
