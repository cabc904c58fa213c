package overlay

import (
	"github.com/tidwall/btree"
)

// run is units that lie in slots side by side, or are zeros (slot is then -1).
type run struct {
	unit, count int64
	slot        int64
	mask        uint8 // sectors that are there; all of them unless count is 1
}

func (r run) end() int64 { return r.unit + r.count }

// from is what is left of r from a unit on.
func (r run) from(unit int64) run {
	if r.slot >= 0 {
		r.slot += unit - r.unit
	}
	r.count -= unit - r.unit
	r.unit = unit
	return r
}

// until is what is left of r up to a unit.
func (r run) until(unit int64) run {
	r.count = unit - r.unit
	return r
}

// index says where units are. It has no locks of its own.
type index struct {
	tree *btree.BTreeG[run]
	data int64 // units that have a slot
}

func newIndex() *index {
	return &index{tree: btree.NewBTreeGOptions(func(a, b run) bool { return a.unit < b.unit }, btree.Options{NoLocks: true})}
}

// over calls each for the runs that overlap [unit, unit+count), whole, in order.
func (x *index) over(unit, count int64, each func(run) bool) {
	from := unit
	x.tree.Descend(run{unit: unit}, func(r run) bool {
		if r.end() > unit {
			from = r.unit
		}
		return false
	})
	x.tree.Ascend(run{unit: from}, func(r run) bool { return r.unit < unit+count && each(r) })
}

// put makes n what is known of its units, and calls free for the slots that were theirs.
func (x *index) put(n run, free func(slot, count int64)) {
	var few [8]run
	old := few[:0]
	x.over(n.unit, n.count, func(r run) bool { old = append(old, r); return true })
	for _, r := range old {
		x.tree.Delete(r)
		if r.unit < n.unit {
			x.tree.Set(r.until(n.unit))
		}
		if r.end() > n.end() {
			x.tree.Set(r.from(n.end()))
		}
		if gone := r.from(max(r.unit, n.unit)).until(min(r.end(), n.end())); gone.slot >= 0 {
			x.data -= gone.count
			free(gone.slot, gone.count)
		}
	}
	if n.slot >= 0 {
		x.data += n.count
	}
	if before, ok := x.before(n.unit); ok && joins(before, n) {
		x.tree.Delete(before)
		before.count += n.count
		n = before
	}
	if after, ok := x.tree.Get(run{unit: n.end()}); ok && joins(n, after) {
		x.tree.Delete(after)
		n.count += after.count
	}
	x.tree.Set(n)
}

func (x *index) before(unit int64) (r run, ok bool) {
	x.tree.Descend(run{unit: unit - 1}, func(found run) bool {
		r, ok = found, found.end() == unit
		return false
	})
	return r, ok
}

// joins reports whether b goes on where a ends, on the disk and in the file.
func joins(a, b run) bool {
	return a.mask == allSectors && b.mask == allSectors && (a.slot < 0 && b.slot < 0 || a.slot >= 0 && b.slot == a.slot+a.count)
}

// space knows which slots are free. Those that are given back wait until what took their
// place is durable, and known to be.
type space struct {
	next   int64 // slots from here on were never used
	free   *btree.BTreeG[slots]
	hand   int64   // where the search for free ones goes on
	fresh  []slots // given back since the last flush began
	synced []slots // ... what replaced them is durable; the marker that says so is not yet
	waits  int64   // how many are fresh
}

type slots struct{ at, count int64 }

func newSpace() space {
	return space{free: btree.NewBTreeGOptions(func(a, b slots) bool { return a.at < b.at }, btree.Options{NoLocks: true})}
}

// tries bounds how many free places a search looks at: the file may grow instead.
const tries = 64

// take returns count slots side by side.
func (s *space) take(count int64) int64 {
	var found slots
	n := 0
	look := func(f slots) bool {
		if n++; f.count >= count {
			found = f
		}
		return found.count == 0 && n < tries
	}
	if s.free.Ascend(slots{at: s.hand}, look); found.count == 0 && n < tries {
		s.free.Ascend(slots{}, look)
	}
	if found.count == 0 {
		s.next += count
		return s.next - count
	}
	s.free.Delete(found)
	s.hand = found.at + count
	if found.count > count {
		s.free.Set(slots{s.hand, found.count - count})
	}
	return found.at
}

// giveBack says that nothing needs the slots any more once what was written by now is durable.
func (s *space) giveBack(at, count int64) {
	s.fresh = append(s.fresh, slots{at, count})
	s.waits += count
}

// wait makes the slots that are free wait for a flush first.
func (s *space) wait() {
	s.free.Scan(func(f slots) bool { s.giveBack(f.at, f.count); return true })
	s.free.Clear()
}

// unused makes slots free.
func (s *space) unused(at, count int64) {
	s.free.Descend(slots{at: at}, func(f slots) bool {
		if f.at+f.count == at {
			at, count = f.at, f.count+count
		}
		return false
	})
	if after, ok := s.free.Delete(slots{at: at + count}); ok {
		count += after.count
	}
	s.free.Set(slots{at, count})
}
