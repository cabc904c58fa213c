package spill

import (
	"bytes"
	"container/heap"
	"fmt"
	"iter"
	"slices"
)

const (
	runBlock = 32 << 10 // bytes of a block of a run
	fanIn    = 64       // runs of one level that become one of the next
)

// Sorter puts records of one size in the order of their bytes. Equal records
// stay several. What does not fit its budget lies in a log, as sorted runs.
type Sorter struct {
	log    *Log
	size   int // of a record
	budget int // bytes of records in memory
	count  int64
	buf    []byte
	runs   []run
}

// run is a sorted part: its blocks in the log.
type run struct {
	level  int
	blocks []int64
}

// NewSorter makes a sorter of records of size bytes that holds at most budget
// bytes of them in memory. Several sorters may share a log.
func NewSorter(log *Log, size, budget int) *Sorter {
	return &Sorter{log: log, size: size, budget: max(budget, size)}
}

// Len is how many records were added.
func (s *Sorter) Len() int64 { return s.count }

// Add takes a copy of a record.
func (s *Sorter) Add(record []byte) error {
	if len(record) != s.size {
		return fmt.Errorf("sort: a record of %d bytes among records of %d", len(record), s.size)
	}
	if len(s.buf)+s.size > s.budget {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.buf = append(s.buf, record...)
	s.count++
	return nil
}

// spill writes what is in memory as a run, and merges runs where a level is full.
func (s *Sorter) spill() error {
	r, err := s.write(0, s.inMemory())
	if err != nil {
		return err
	}
	s.buf, s.runs = s.buf[:0], append(s.runs, r)
	for {
		last := s.runs[len(s.runs)-1].level
		from := slices.IndexFunc(s.runs, func(r run) bool { return r.level == last })
		if len(s.runs)-from < fanIn {
			return nil
		}
		if r, err = s.write(last+1, s.merged(s.runs[from:], false)); err != nil {
			return err
		}
		s.runs = append(s.runs[:from], r)
	}
}

func (s *Sorter) write(level int, records iter.Seq2[[]byte, error]) (run, error) {
	r := run{level: level}
	block := make([]byte, 0, runBlock)
	flush := func() error {
		if len(block) == 0 {
			return nil
		}
		at, err := s.log.Append(block)
		r.blocks, block = append(r.blocks, at), block[:0]
		return err
	}
	for b, err := range records {
		if err != nil {
			return r, err
		}
		if len(block)+s.size > runBlock {
			if err := flush(); err != nil {
				return r, err
			}
		}
		block = append(block, b...)
	}
	return r, flush()
}

// inMemory yields the records in memory in order.
func (s *Sorter) inMemory() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		at := func(n uint32) []byte { return s.buf[int(n)*s.size:][:s.size] }
		order := make([]uint32, len(s.buf)/s.size)
		for i := range order {
			order[i] = uint32(i)
		}
		slices.SortFunc(order, func(a, b uint32) int { return bytes.Compare(at(a), at(b)) })
		for _, n := range order {
			if !yield(at(n), nil) {
				return
			}
		}
	}
}

// Sorted yields all records in order; each is valid until the next. It may be
// called again, and records may be added between two calls.
func (s *Sorter) Sorted() iter.Seq2[[]byte, error] { return s.merged(s.runs, true) }

func (s *Sorter) merged(runs []run, memory bool) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var h cursors
		for _, r := range runs {
			h = append(h, &cursor{log: s.log, size: s.size, blocks: r.blocks})
		}
		if memory && len(runs) == 0 {
			s.inMemory()(yield)
			return
		}
		if memory && len(s.buf) > 0 {
			next, stop := iter.Pull2(s.inMemory())
			defer stop()
			h = append(h, &cursor{pull: next, size: s.size})
		}
		for i := 0; i < len(h); {
			more, err := h[i].next()
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				h = slices.Delete(h, i, i+1)
				continue
			}
			i++
		}
		heap.Init(&h)
		for len(h) > 0 {
			if !yield(h[0].record, nil) {
				return
			}
			more, err := h[0].next()
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				heap.Pop(&h)
				continue
			}
			heap.Fix(&h, 0)
		}
	}
}

// cursor walks a run, or what pull gives.
type cursor struct {
	log    *Log
	size   int
	blocks []int64
	room   []byte
	rest   []byte
	pull   func() ([]byte, error, bool)
	record []byte
}

func (c *cursor) next() (more bool, err error) {
	if c.pull != nil {
		c.record, err, more = c.pull()
		return more, err
	}
	if len(c.rest) == 0 {
		if len(c.blocks) == 0 {
			return false, nil
		}
		if c.room, err = c.log.Read(c.blocks[0], c.room); err != nil {
			return false, err
		}
		if c.rest, c.blocks = c.room, c.blocks[1:]; len(c.rest) == 0 || len(c.rest)%c.size != 0 {
			return false, ErrDamaged
		}
	}
	c.record, c.rest = c.rest[:c.size], c.rest[c.size:]
	return true, nil
}

type cursors []*cursor

func (h cursors) Len() int           { return len(h) }
func (h cursors) Less(i, j int) bool { return bytes.Compare(h[i].record, h[j].record) < 0 }
func (h cursors) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *cursors) Push(x any)        { *h = append(*h, x.(*cursor)) }
func (h *cursors) Pop() any {
	old := *h
	c := old[len(old)-1]
	*h = old[:len(old)-1]
	return c
}
