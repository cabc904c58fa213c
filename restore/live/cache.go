package live

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/millrace-backup/millrace/id"
)

// DefaultMemory is how many bytes of chunks a cache holds unless somebody says
// otherwise. A boot of a small system reads about as much.
const DefaultMemory = 128 << 20

// Cache holds decoded chunks for all disks that are opened with it. It may be used from
// many goroutines.
type Cache struct {
	limit int64
	room  *semaphore.Weighted // bytes of fetches under way
	ahead chan struct{}       // a place for each reader ahead

	fetched atomic.Int64
	missed  atomic.Int64
	hits    atomic.Int64

	mu    sync.Mutex // guards what follows, and of entries all but ready, plain and err
	held  map[id.Chunk]*entry
	order list.List // of *entry, the oldest first; those under way are not in it
	used  int64
}

// entry is a chunk that is here, or is being fetched.
type entry struct {
	chunk id.Chunk
	ready chan struct{} // closed when plain or err is there
	plain []byte        // never written to again
	err   error
	again bool // used since it came, or since it was spared
}

// NewCache returns an empty cache of so many bytes; 0 means [DefaultMemory].
func NewCache(limit int64) *Cache {
	if limit == 0 {
		limit = DefaultMemory
	}
	limit = max(limit, 8<<20)
	return &Cache{limit: limit, room: semaphore.NewWeighted(max(limit/2, leastRoom)), ahead: make(chan struct{}, 4), held: make(map[id.Chunk]*entry)}
}

// Stats are counts since the cache was made.
type Stats struct {
	Fetched int64 // bytes that came from packs
	Misses  int64 // chunks that were fetched
	Hits    int64 // chunks that were there or on their way
	Held    int64 // bytes held now
}

// Stats returns the counts.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Fetched: c.fetched.Load(), Misses: c.missed.Load(), Hits: c.hits.Load(), Held: c.used}
}

// get returns the entry of a chunk, and whether the caller has to fetch it. What comes early
// must stay until its reader does, so it counts as used.
func (c *Cache) get(chunk id.Chunk, early bool) (e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e = c.held[chunk]; e != nil {
		e.again = true
		c.hits.Add(1)
		return e, false
	}
	e = &entry{chunk: chunk, ready: make(chan struct{}), again: early}
	c.held[chunk] = e
	c.missed.Add(1)
	return e, true
}

// settle is called once by who fetched e, with its bytes or why there are none. What
// failed is not kept.
func (c *Cache) settle(e *entry, plain []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.plain, e.err = plain, err
	if err != nil {
		delete(c.held, e.chunk)
		close(e.ready)
		return
	}
	c.order.PushBack(e)
	close(e.ready)
	// What was used since it came gets a second round: a disk that is read from one end to
	// the other must not drive out what is read again and again.
	for c.used += int64(len(plain)); c.used > c.limit; {
		front := c.order.Front()
		old := front.Value.(*entry)
		if old.again {
			old.again = false
			c.order.MoveToBack(front)
			continue
		}
		c.order.Remove(front)
		delete(c.held, old.chunk)
		c.used -= int64(len(old.plain))
	}
}

// await returns an entry's bytes once they are there.
func (e *entry) await(ctx context.Context) ([]byte, error) {
	select {
	case <-e.ready:
		return e.plain, e.err
	default:
	}
	select {
	case <-e.ready:
		return e.plain, e.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
