package table

import (
	"container/list"
	"sync"
	"unsafe"

	"github.com/millrace-backup/millrace/events"
)

// defaultCache bounds the decoded pages that an open map or table keeps, in
// bytes. 16 MiB hold some 300,000 chunks: those of a disk of 20 GiB, so that
// even a table ordered by chunk is read once there.
const defaultCache = 16 << 20

// Pages keeps decoded pages of the maps that are opened with it, the most
// recently used 16 MiB of all of them. Its maps may be used and forgotten in any
// order and from many goroutines.
type Pages struct{ cache *cache }

// NewPages returns an empty set of pages.
func NewPages() *Pages { return &Pages{newCache(defaultCache)} }

// cache keeps decoded pages, the most recently used ones, of any number of
// tables. mu also holds back a second reader of a page while the first one
// reads it.
type cache struct {
	mu    sync.Mutex
	limit int
	used  int
	order *list.List // of *entry, most recent first
	at    map[slot]*list.Element
}

type slot struct {
	kind  byte
	table events.UID
	page  int
}

type entry struct {
	slot
	rows  any // []ChunkRow or []extent, as kind says
	bytes int
}

func newCache(limit int) *cache {
	return &cache{limit: limit, order: list.New(), at: map[slot]*list.Element{}}
}

// rowsOf returns the rows of a page of a table of one kind, which has rows of one
// type, reading them if they are not kept. Nobody changes them.
func rowsOf[R ChunkRow | extent](c *cache, s slot, read func() ([]R, error)) ([]R, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.at[s]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*entry).rows.([]R), nil
	}
	rows, err := read()
	if err != nil {
		return nil, err
	}
	var r R
	e := &entry{s, rows, len(rows) * int(unsafe.Sizeof(r))}
	c.at[s] = c.order.PushFront(e)
	c.used += e.bytes
	for c.used > c.limit && c.order.Len() > 1 {
		old := c.order.Remove(c.order.Back()).(*entry)
		delete(c.at, old.slot)
		c.used -= old.bytes
	}
	return rows, nil
}
