package overlaycut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/millrace-backup/millrace/vdisk"
)

const sector = 512

// beneath is the tag of what lies under the overlay; zeros have the tag 0.
const beneath = 1

// pattern fills p, which lies at a sector, with what a tag means.
func pattern(p []byte, first int64, tag uint64) {
	for ; len(p) > 0; p, first = p[sector:], first+1 {
		if tag == 0 {
			clear(p[:sector])
			continue
		}
		for i := 0; i < sector; i += 16 {
			binary.LittleEndian.PutUint64(p[i:], tag)
			binary.LittleEndian.PutUint64(p[i+8:], uint64(first))
		}
	}
}

// tagOf is the reverse for one sector.
func tagOf(p []byte, number int64) (uint64, error) {
	tag, at := binary.LittleEndian.Uint64(p), int64(binary.LittleEndian.Uint64(p[8:]))
	for i := 16; i < sector; i += 16 {
		if binary.LittleEndian.Uint64(p[i:]) != tag || int64(binary.LittleEndian.Uint64(p[i+8:])) != at {
			return 0, errors.New("is torn")
		}
	}
	if tag != 0 && at != number {
		return 0, fmt.Errorf("has what was written to sector %d", at)
	}
	return tag, nil
}

// under is what lies beneath.
type under struct{}

func (under) ReadAt(p []byte, off int64) (int, error) {
	if off%sector != 0 || len(p)%sector != 0 {
		return 0, errors.New("beneath is asked for parts of sectors")
	}
	pattern(p, off/sector, beneath)
	return len(p), nil
}

// model knows what each sector may be. A sector has one writer at a time.
type model struct {
	mu    sync.Mutex
	cells map[int64]*cell
}

type cell struct {
	flushed uint64
	since   []write // of what was written later
	gone    int     // writes that were in since before its first one
}

type write struct {
	tag   uint64
	acked bool
}

func newModel() *model { return &model{cells: map[int64]*cell{}} }

func (m *model) cell(s int64) *cell {
	c := m.cells[s]
	if c == nil {
		c = &cell{flushed: beneath}
		m.cells[s] = c
	}
	return c
}

// begin says that sectors are about to be written, and acked that they have been.
func (m *model) begin(from, to int64, tag uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := from; s < to; s++ {
		c := m.cell(s)
		c.since = append(c.since, write{tag: tag})
	}
}

func (m *model) acked(from, to int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := from; s < to; s++ {
		c := m.cells[s]
		c.since[len(c.since)-1].acked = true
	}
}

// last is the last write that was acknowledged; -1 if there is none.
func (c *cell) last() int {
	for n := len(c.since) - 1; n >= 0; n-- {
		if c.since[n].acked {
			return n
		}
	}
	return -1
}

// mark is what a flush that begins now makes durable, for flushed when it has ended well.
func (m *model) mark() map[int64]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	marks := map[int64]int{}
	for s, c := range m.cells {
		if n := c.last(); n >= 0 {
			marks[s] = c.gone + n
		}
	}
	return marks
}

func (m *model) flushed(marks map[int64]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s, at := range marks {
		if c := m.cells[s]; at >= c.gone {
			n := at - c.gone
			c.flushed, c.since, c.gone = c.since[n].tag, slices.Clone(c.since[n+1:]), at+1
		}
	}
}

// check holds a sector to what it may be. all: what was acknowledged is there.
func (m *model) check(s int64, got []byte, all bool) (tag uint64, err error) {
	tag, err = tagOf(got, s)
	if err != nil {
		return 0, fmt.Errorf("sector %d %w", s, err)
	}
	c := m.cells[s]
	if c == nil {
		c = &cell{flushed: beneath}
	}
	var may []uint64
	n := -1
	if all {
		n = c.last()
	}
	if n < 0 {
		n = 0
		may = append(may, c.flushed)
	}
	for _, w := range c.since[n:] {
		may = append(may, w.tag)
	}
	if !slices.Contains(may, tag) {
		return 0, fmt.Errorf("sector %d is of write %d, which is none of %v", s, tag, may)
	}
	return tag, nil
}

// settle says that from now on each sector is what it was found to be.
func (m *model) settle(found map[int64]uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.cells)
	for s, tag := range found {
		m.cells[s] = &cell{flushed: tag}
	}
}

// agrees reports whether an extent tells of its sectors what they are. Zeros may be data.
func agrees(k vdisk.Kind, tag uint64) bool {
	switch k {
	case vdisk.Inherited:
		return tag == beneath
	case vdisk.Zero:
		return tag == 0
	}
	return tag != beneath
}
