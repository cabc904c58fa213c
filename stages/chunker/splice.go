package chunker

import (
	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow"
)

// worthSplicing reports whether the cell stays below its limits. rec has the changed
// blocks already.
func (c *cell) worthSplicing(rec *sidecar.Record) bool {
	changed, pieces := sidecar.Limits(c.number, len(c.now))
	if rec.Changed.Len() > changed {
		return false
	}
	starts := 0
	for n := range c.now {
		change := rec.Hashes[n] != c.now[n]
		before := n > 0 && rec.Hashes[n-1] != c.now[n-1]
		if change != before || !change && rec.Starts.Has(n) {
			starts++
		}
	}
	return starts <= pieces
}

// splices makes the pieces of a cell of which some blocks have changed: what has
// not changed keeps the parent's map, and the changed blocks are stored together, as
// one chunk. A run of changed blocks as long as a chunk is cut by itself: a file
// that was written in one go is then found elsewhere in the domain.
func (c *cell) splices(rec *sidecar.Record) {
	old := rec.Hashes
	for from := 0; from < len(c.now); {
		to := from
		for to < len(c.now) && (old[to] == c.now[to]) == (old[from] == c.now[from]) {
			to++
		}
		if old[from] == c.now[from] {
			c.unchanged(from, to)
		} else {
			for n := from; n < to; n++ {
				rec.Starts.Drop(n)
			}
			c.changed(from, to, rec.Starts)
		}
		if to < len(c.now) {
			rec.Starts.Add(to) // what follows is a piece, whatever it was part of
		}
		from = to
	}
	c.closeSplice()
}

// unchanged adds blocks that are as the parent has them: the zero runs that a cutter
// would see, and the rest.
func (c *cell) unchanged(from, to int) {
	run := int(c.work.Cutter.ZeroRun / c.work.Cutter.Block)
	for at := from; at < to; {
		z := at // the next zero run is [z, end)
		end := z
		for z < to {
			for end = z; end < to && c.now[end] == (chunk.BlockHash{}); {
				end++
			}
			if end-z >= run {
				break
			}
			z = end + 1
		}
		z = min(z, to)
		if at < z {
			c.blocks(at, z, flow.Piece{Verdict: flow.Unchanged})
		}
		if z < to {
			c.blocks(z, end, flow.Piece{Verdict: flow.Unchanged, Zero: true})
			z = end
		}
		at = z
	}
}

// changed adds blocks that have all changed: runs of zeros, and data.
func (c *cell) changed(from, to int, starts sidecar.Set) {
	for from < to {
		zero := c.now[from] == (chunk.BlockHash{})
		end := from + 1
		for end < to && (c.now[end] == (chunk.BlockHash{})) == zero {
			end++
		}
		switch {
		case zero:
			starts.Add(from)
			c.blocks(from, end, flow.Piece{Zero: true})
		case end-from >= int(c.work.Cutter.Normal/c.work.Cutter.Block):
			c.cutRun(from, end, starts)
		default:
			c.spliceRun(from, end, starts)
		}
		from = end
	}
}

// blocks adds one piece of whole blocks.
func (c *cell) blocks(from, to int, x flow.Piece) {
	a, b := c.bounds(from, to)
	x.Length = uint32(b - a)
	c.add(x, a)
}

func (c *cell) bounds(from, to int) (a, b int64) {
	size := int64(c.Blocks.Size())
	return int64(from) * size, min(int64(to)*size, int64(len(c.bytes)))
}

// cutRun cuts a run by itself.
func (c *cell) cutRun(from, to int, starts sidecar.Set) {
	a, b := c.bounds(from, to)
	c.cuts = c.Cutter.CutHashed(c.bytes[a:b], c.now[from:to], c.cuts[:0])
	for _, cut := range c.cuts {
		starts.Add(int(a+cut.Offset) / c.Blocks.Size())
		c.cutPiece(cut, a)
	}
}

// spliceRun adds a run to the open splice, and to the next one what that has no
// room for.
func (c *cell) spliceRun(from, to int, starts sidecar.Set) {
	for from < to {
		room := (int(c.work.Cutter.Max) - len(c.join)) / c.Blocks.Size()
		if room == 0 {
			c.closeSplice()
			continue
		}
		end := min(from+room, to)
		a, b := c.bounds(from, end)
		starts.Add(from)
		c.splice = append(c.splice, len(c.parcel.Pieces))
		c.add(flow.Piece{Length: uint32(b - a), From: uint32(len(c.join))}, a)
		c.join = append(c.join, c.bytes[a:b]...)
		from = end
	}
}

// closeSplice names the open splice in all its pieces. One of a single piece is a
// chunk like any other.
func (c *cell) closeSplice() {
	if len(c.splice) == 0 {
		return
	}
	name := c.IDs.ID(c.join)
	for _, n := range c.splice {
		x := &c.parcel.Pieces[n]
		if x.Chunk = name; len(c.splice) > 1 {
			x.Raw = uint32(len(c.join))
		}
	}
	c.splice, c.join = c.splice[:0], c.join[:0]
}
