package live

import "sync"

// The window that is read ahead of a reader who goes through the disk in order. It
// doubles as long as he does.
const (
	leastAhead = 256 << 10
	mostAhead  = 4 << 20
	// slack is how far from where the last read ended the next may begin: requests that are
	// under way together do not come in order.
	slack = 1 << 20
)

// runs are the places where somebody reads in order: a guest does so in several files at a
// time. The zero value is ready.
type runs struct {
	mu   sync.Mutex
	last [8]run
	turn int
}

type run struct {
	end    int64 // of the furthest read
	ahead  int64 // what is read ahead ends there
	window int64
	hits   int
}

// seen notes a read and says what is to be read ahead for it; length is 0 where nothing is.
func (r *runs) seen(off, n, size int64) (from, length int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.last {
		x := &r.last[i]
		if x.end == 0 || off < x.end-slack || off > x.end+slack/4 {
			continue
		}
		if off+n <= x.end { // out of order, or once more
			return 0, 0
		}
		x.end = off + n
		if x.hits++; x.hits < 2 || x.ahead-x.end > x.window/2 {
			return 0, 0
		}
		x.window = min(max(2*x.window, leastAhead), mostAhead)
		from = max(x.ahead, x.end)
		x.ahead = min(x.end+x.window, size)
		return from, max(0, x.ahead-from)
	}
	r.last[r.turn] = run{end: off + n}
	r.turn = (r.turn + 1) % len(r.last)
	return 0, 0
}

// readAhead brings a range in while the reader goes on. If too many do so already, nobody
// does: it is no more than a guess.
func (m *Image) readAhead(from, length int64) {
	select {
	case m.cache.ahead <- struct{}{}:
	default:
		return
	}
	m.behind.Go(func() {
		defer func() { <-m.cache.ahead }()
		// An error here is met again by the read that needs these bytes, and told there.
		_, _ = m.Want(m.ctx, from, length)
	})
}
