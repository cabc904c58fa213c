package vhdxcut

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

const sector = 512

// model knows for every sector what a crash may leave in it. What is written is a
// pattern made of a number, its tag; the tag 0 is zeros.
type model struct {
	base  map[int64]uint32 // what the sectors were in the parent, or at the beginning
	cells map[int64]*cell
}

// cell is a sector that was written to.
type cell struct {
	durable []uint32 // what it may be if nothing since the last flush is there
	since   []uint32 // what was written since
	final   []uint32 // what it may be if everything is there

	marked []uint32 // final when mark was called
	before int      // how much of since was written by then
}

func newModel() *model { return &model{base: map[int64]uint32{}, cells: map[int64]*cell{}} }

func (m *model) cell(s int64) *cell {
	c := m.cells[s]
	if c == nil {
		was := []uint32{m.base[s]}
		c = &cell{durable: was, final: was}
		m.cells[s] = c
	}
	return c
}

// write says that sectors are about to be written; maybe: or left as they are.
func (m *model) write(from, to int64, tag uint32, maybe bool) {
	for s := from; s < to; s++ {
		c := m.cell(s)
		c.since = append(c.since, tag)
		if maybe {
			c.final = append(slices.Clone(c.final), tag)
		} else {
			c.final = []uint32{tag}
		}
	}
}

// flushed says that everything is durable.
func (m *model) flushed() {
	for _, c := range m.cells {
		c.durable, c.since = c.final, nil
	}
}

// mark says that a flush is about to begin, and flushedMark that it has ended: what
// was written in between may be durable or not.
func (m *model) mark() {
	for _, c := range m.cells {
		c.marked, c.before = c.final, len(c.since)
	}
}

func (m *model) flushedMark() {
	for _, c := range m.cells {
		if c.marked != nil {
			c.durable, c.since = c.marked, c.since[c.before:]
			c.marked, c.before = nil, 0
		}
	}
}

// check returns an error unless the sectors of b, which begin with number first,
// are what they may be. final: everything is there.
func (m *model) check(first int64, b []byte, final bool) error {
	for i := 0; i < len(b); i += sector {
		s := first + int64(i/sector)
		got := b[i : i+sector]
		allowed := []uint32{m.base[s]}
		if c := m.cells[s]; c != nil && final {
			allowed = c.final
		} else if c != nil {
			allowed = slices.Concat(c.durable, c.since)
		}
		if !slices.ContainsFunc(allowed, func(tag uint32) bool { return isPattern(got, tag) }) && (final || !mixed(got, allowed)) {
			return fmt.Errorf("sector %d has tag %#x, allowed are %v", s, tagOf(got), allowed)
		}
	}
	return nil
}

// word is what a sector of a tag consists of.
func word(tag uint32) [8]byte {
	var w [8]byte
	binary.LittleEndian.PutUint64(w[:], uint64(tag)*0x9E3779B97F4A7C15)
	return w
}

func pattern(tag uint32, n int64) []byte {
	w := word(tag)
	return bytes.Repeat(w[:], int(n/8))
}

func isPattern(b []byte, tag uint32) bool {
	w := word(tag)
	return bytes.Equal(b[:8], w[:]) && bytes.Equal(b[8:], b[:len(b)-8])
}

// mixed reports whether every byte is that of one of the tags: a torn sector.
func mixed(b []byte, tags []uint32) bool {
	var words [][8]byte
	for _, tag := range tags {
		words = append(words, word(tag))
	}
	for i, c := range b {
		if !slices.ContainsFunc(words, func(w [8]byte) bool { return w[i%8] == c }) {
			return false
		}
	}
	return true
}

func tagOf(b []byte) uint64 { return binary.LittleEndian.Uint64(b) * 0xF1DE83E19937733D }
