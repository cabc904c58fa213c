package table

import (
	"container/list"
	"sync"
	"unsafe"

	"github.com/millrace-backup/millrace/events"
)

// defaultCache bounds the decoded chunk pages that an open map or table keeps,
// in bytes. 16 MiB hold some 300,000 rows: all chunks of a disk of 20 GiB, so
// that even a table ordered by chunk is read once there.
const defaultCache = 16 << 20

// cache keeps decoded chunk pages, the most recently used ones, of any number
// of tables. mu also holds back a second reader of a page while the first one
// reads it.
type cache struct {
	mu    sync.Mutex
	limit int
	used  int
	order *list.List // of *entry, most recent first
	at    map[slot]*list.Element
}

type slot struct {
	table events.UID
	page  int
}

type entry struct {
	slot
	rows []ChunkRow
}

func newCache(limit int) *cache {
	return &cache{limit: limit, order: list.New(), at: map[slot]*list.Element{}}
}

func (e *entry) bytes() int { return len(e.rows) * int(unsafe.Sizeof(ChunkRow{})) }

// get returns the rows of a page, reading them if they are not kept.
func (c *cache) get(table events.UID, page int, read func() ([]ChunkRow, error)) ([]ChunkRow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := slot{table, page}
	if e, ok := c.at[s]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*entry).rows, nil
	}
	rows, err := read()
	if err != nil {
		return nil, err
	}
	e := &entry{s, rows}
	c.at[s] = c.order.PushFront(e)
	c.used += e.bytes()
	for c.used > c.limit && c.order.Len() > 1 {
		old := c.order.Remove(c.order.Back()).(*entry)
		delete(c.at, old.slot)
		c.used -= old.bytes()
	}
	return rows, nil
}
