// Package paged keeps a bounded number of the pages of a table in memory, for
// formats whose tables grow with the disk.
//
// Call [New] with how many pages to keep and how to load one, then [Cache.Get].
// Pages are numbered from 0; a page has its slot by its number, and one that
// comes into the slot of another takes its place. That is no least-recently-used
// order: disks are read from front to back, where it makes no difference, and a
// look-up costs one atomic load.
//
// A Cache may be used from many goroutines. A page is not changed once it was
// loaded, so who got it may go on using it when it has lost its slot. Two
// goroutines that miss the same page both load it. Errors are not kept: the next
// Get tries again.
package paged

import "sync/atomic"

// Cache holds pages of type T.
type Cache[T any] struct {
	slots []atomic.Pointer[entry[T]]
	load  func(number int64) (T, error)
}

type entry[T any] struct {
	number int64
	page   T
}

// New returns a cache of at most keep pages, at least one.
func New[T any](keep int64, load func(number int64) (T, error)) *Cache[T] {
	return &Cache[T]{slots: make([]atomic.Pointer[entry[T]], max(1, keep)), load: load}
}

// Get returns a page. It allocates only when the page is not there.
func (c *Cache[T]) Get(number int64) (T, error) {
	slot := &c.slots[number%int64(len(c.slots))]
	if e := slot.Load(); e != nil && e.number == number {
		return e.page, nil
	}
	page, err := c.load(number)
	if err != nil {
		return page, err
	}
	slot.Store(&entry[T]{number: number, page: page})
	return page, nil
}
