package crashfs

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Mode says what a power cut leaves of what was not synced.
type Mode uint8

const (
	// Lost: nothing.
	Lost Mode = iota
	// Random: some of it, torn and out of order, by the seed.
	Random
	// Kept: all of it. A process that is killed leaves this, and so does a power
	// cut, on a lucky day.
	Kept
)

func (m Mode) String() string { return [...]string{"lost", "random", "kept"}[m] }

// sector is the unit that a medium writes whole, mostly.
const sector = 512

// Crash returns a disk as it may be found after a power cut now. The seed counts
// with Random only. d itself goes on unharmed.
func (d *Disk) Crash(m Mode, seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := crash{mode: m, r: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), upTo: map[*entry]uint64{}, nodes: map[*node]*node{}}
	// Some seeds lose nearly everything, some nearly nothing: bugs sit at both ends.
	c.stay = []float64{0.1, 0.5, 0.9}[c.r.IntN(3)]
	c.choose(d.root, map[*node]bool{})
	out := New()
	out.root = c.copy(d.root)
	return out
}

type crash struct {
	mode  Mode
	r     *rand.Rand
	stay  float64
	upTo  map[*entry]uint64 // the last change of each name that is on the medium
	nodes map[*node]*node   // a file with two names stays one file
}

// choose decides for every name in and below a folder how much of its history the
// medium has. It visits what any part of the history leads to.
func (c *crash) choose(n *node, seen map[*node]bool) {
	if n == nil || seen[n] {
		return
	}
	seen[n] = true
	for _, name := range sortedNames(n.entries) { // in order: the same seed, the same crash
		e := n.entries[name]
		k := 0
		switch c.mode {
		case Kept:
			k = len(e.changes)
		case Random:
			for k < len(e.changes) && c.r.Float64() < c.stay {
				k++
			}
		}
		for _, x := range e.changes[:k] {
			c.include(e, x.seq)
		}
		c.choose(e.durable, seen)
		for _, x := range e.changes {
			c.choose(x.node, seen)
		}
	}
}

// include puts the changes of a name up to seq on the medium, and the new names of
// what was renamed away by them.
func (c *crash) include(e *entry, seq uint64) {
	if e.seq >= seq || c.upTo[e] >= seq {
		return
	}
	c.upTo[e] = seq
	for _, x := range e.changes {
		if x.seq <= seq && x.with != nil {
			c.include(x.with, x.withSeq)
		}
	}
}

func (c *crash) copy(n *node) *node {
	if n == nil {
		return nil
	}
	if have := c.nodes[n]; have != nil {
		return have
	}
	out := &node{}
	c.nodes[n] = out
	if n.file != nil {
		out.file = &file{kept: c.bytes(n.file)}
		return out
	}
	out.entries = make(map[string]*entry, len(n.entries))
	for _, name := range sortedNames(n.entries) {
		e := n.entries[name]
		at := e.durable
		for _, x := range e.changes {
			if x.seq <= c.upTo[e] {
				at = x.node
			}
		}
		if at != nil {
			out.entries[name] = &entry{durable: c.copy(at)}
		}
	}
	return out
}

// bytes is what the medium has of a file.
func (c *crash) bytes(f *file) *content {
	if len(f.pending) == 0 || c.mode == Lost {
		return f.kept
	}
	kept, pending, length, seed, stay := f.kept, slices.Clone(f.pending), int64(len(f.view())), c.r.Uint64(), c.stay
	if c.mode == Kept && !f.lost {
		if f.owned { // it will be changed in place
			all := pending
			return &content{make: func() []byte { return replay(kept.get(), all) }}
		}
		return fixed(f.view())
	}
	if c.mode == Kept {
		return &content{make: func() []byte { return replay(kept.get(), pending) }}
	}
	return &content{make: func() []byte { return tear(kept.get(), pending, length, stay, rand.New(rand.NewPCG(seed, 1))) }}
}

func replay(b []byte, edits []edit) []byte {
	b = slices.Clone(b)
	for _, e := range edits {
		b = e.on(b, true)
	}
	return b
}

// tear keeps, drops or tears each edit. length is that of the whole file.
func tear(b []byte, edits []edit, length int64, stay float64, r *rand.Rand) []byte {
	b = slices.Clone(b)
	synced := int64(len(b))
	for _, e := range edits {
		switch p := r.Float64(); {
		case p >= stay:
		case p >= stay*0.7 && !e.cut:
			b = e.torn(b, r)
		default:
			b = e.on(b, true)
		}
	}
	if int64(len(b)) < length && r.IntN(3) == 0 {
		// The length is there, the bytes are not: zeros, or what lay there before.
		from := len(b)
		b = append(b, make([]byte, length-int64(from))...)
		if r.IntN(2) == 0 {
			for i := max(from, int(synced)); i < len(b); i++ {
				b[i] = byte(r.Uint32())
			}
		}
	}
	return b
}

// torn is on with some sectors only, the last of them cut at any byte.
func (e edit) torn(b []byte, r *rand.Rand) []byte {
	for at := int64(0); at < int64(len(e.data)); {
		end := min((e.off+at)/sector*sector+sector-e.off, int64(len(e.data)))
		switch r.IntN(8) {
		case 0, 1, 2:
		case 3:
			b = edit{off: e.off + at, data: e.data[at : at+r.Int64N(end-at)]}.on(b, true)
		default:
			b = edit{off: e.off + at, data: e.data[at:end]}.on(b, true)
		}
		at = end
	}
	return b
}

func sortedNames(m map[string]*entry) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// A Case is one instant and one way in which the power may go there. It is how a
// failure is told and repeated.
type Case struct {
	Effects int // of the log that were made
	Mode    Mode
	Seed    uint64
}

func (c Case) String() string {
	return fmt.Sprintf("after effect %d, %s, seed %d", c.Effects, c.Mode, c.Seed)
}

// Every visits the crash states of a log: before the first effect and after each
// one, with nothing kept, with everything kept, and for each of the seeds with some
// kept. Effects that drop says true for are left out: so a missing fsync is planted
// into a log of a program that has it. An error of visit ends it and is returned.
func Every(start *Disk, log []Effect, seeds []uint64, drop func(Effect) bool, visit func(Case, *Disk) error) error {
	for n := 0; n <= len(log); n++ {
		if n > 0 {
			e := log[n-1]
			if drop != nil && drop(e) {
				continue
			}
			if err := start.Apply(e); err != nil {
				return fmt.Errorf("effect %d, %s: %w", n, e, err)
			}
		}
		for _, c := range cases(n, seeds) {
			if err := visit(c, start.Crash(c.Mode, c.Seed)); err != nil {
				return err
			}
		}
	}
	return nil
}

func cases(n int, seeds []uint64) []Case {
	out := []Case{{n, Lost, 0}, {n, Kept, 0}}
	for _, seed := range seeds {
		out = append(out, Case{n, Random, uint64(n)<<32 ^ seed})
	}
	return out
}

// Seeds are the first n seeds.
func Seeds(n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i)
	}
	return out
}
