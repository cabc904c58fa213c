package vhdxcut

// plan is what a trial is about, by its number.
type plan struct {
	kinds    []string
	child    bool  // it has a parent
	below    int64 // size of the parent, or of the disk
	fixed    bool
	places   bool    // some blocks are absent and keep their place
	together bool    // several callers at once
	wide     bool    // one flush takes several entries of the log
	unit     int64   // sector of the disk
	size     int64   // of the disk
	block    int64   // size of a block
	span     int64   // of a block, at its beginning, that is written to
	blocks   []int64 // that are written to
	steps    int
	every    int // look at one effect of so many
}

// planOf gives every combination of parent, sectors, chunks and length eight trials
// in a row, and each eight a variation of their own.
func planOf(n int) plan {
	p := plan{child: n%2 == 1, unit: 512, block: 1 << 20, steps: 30, every: 1}
	kind := func(is bool, name string) bool {
		if is {
			p.kinds = append(p.kinds, name)
		}
		return is
	}
	turn := n / 8 % 8
	p.fixed = turn == 1 && !p.child
	if !kind(p.child, "differencing") && !kind(p.fixed, "fixed") {
		kind(true, "dynamic")
	}
	if kind(n%3 == 1, "4096") {
		p.unit = 4096
	}
	switch {
	case kind(turn == 2, "2 MiB"):
		p.block = 2 << 20
	case kind(turn == 5 && (p.child || n%4 < 2), "32 MiB"):
		p.block = 32 << 20
	case kind(turn == 5, "256 MiB"):
		// Not with a parent: a block that is partly the parent's is written as a whole,
		// and every cut would have its own copy of that in memory.
		p.block = 256 << 20
	}
	p.places = kind(turn == 3, "places")
	p.together = kind(turn == 4, "callers")
	p.span = p.block
	tail := p.unit // of the last block; none is dropped as a whole and written again where that takes long
	if p.block > 2<<20 {
		p.span, tail = 256<<10, p.block/2
	}
	chunk := p.unit << 23
	p.size = 6*p.block + tail
	p.blocks = []int64{0, 1, 2, 4, 6}
	if kind(n%4 >= 2 && !p.fixed && turn != 6, "chunks") {
		p.size = 2*chunk + 3*p.block + tail
		p.blocks = []int64{0, chunk/p.block - 1, chunk / p.block, 2 * chunk / p.block, p.size / p.block}
	}
	if kind(n%8 == 7, "long") {
		p.steps, p.every = 600, 16 // the log's ring is gone round
		if p.block > 2<<20 {
			p.steps = 100 // each cut copies what a block takes
		}
	}
	if p.wide = kind(turn == 6, "wide"); p.wide {
		// Each block has its own sector of the table.
		p.blocks, p.span, p.steps, p.every = nil, 16<<10, 15, 23
		for i := range int64(140) {
			p.blocks = append(p.blocks, i*513)
		}
		p.size = 140*513*p.block - p.unit
	}
	p.below = p.size
	if kind(turn == 1 && p.child, "another size") {
		p.below = p.size - 3*p.block - p.unit
		if n%4 == 3 {
			p.below = p.size + 3*p.block
		}
	}
	return p
}
