package chunker

import (
	"slices"

	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow"
)

// cells is what is known of the parents' blocks.
type cells struct {
	work  *flow.Work
	files map[uint32]*sidecar.File // nil: none to be used
	rec   *sidecar.Record          // of the cell that was asked for last
}

func newCells(w *flow.Work) *cells {
	shape := sidecar.Shape{Cell: w.CellSize, Block: int64(w.Cutter.Block)}
	return &cells{work: w, files: map[uint32]*sidecar.File{}, rec: shape.NewRecord()}
}

func (k *cells) close() {
	for _, f := range k.files {
		if f != nil {
			_ = f.Close() // it was only read
		}
	}
}

// of returns the parent's record of a cell, nil if there is none to go by.
func (k *cells) of(p *flow.Parcel, cell int64) *sidecar.Record {
	f, tried := k.files[p.Disk]
	if !tried {
		if sidecar.Usable(k.work, p.Disk) {
			key, at := sidecar.Of(k.work, p.Disk)
			f, _ = sidecar.Open(k.work.Sidecars, key, at) // else by chunk id
		}
		k.files[p.Disk] = f
	}
	if f == nil || p.Fresh || !f.Cell(cell, k.rec) {
		return nil
	}
	if _, damaged := slices.BinarySearch(k.work.Disks[p.Disk].Uncompared, cell); damaged {
		return nil // also what is as it was is looked up by its id
	}
	return k.rec
}

// cell is one cell of a parcel while its pieces are found.
type cell struct {
	*stage
	parcel *flow.Parcel
	at     int64 // in the parcel
	number int64 // in the disk
	bytes  []byte
	now    []chunk.BlockHash
	read   []bool // which blocks were read; nil: all. The others are as the parent has them.

	splice []int // pieces of the open one
}

// find appends the cell's pieces and its record to the parcel. It reports whether
// the parent's record stands.
func (c *cell) find(known *cells) (same bool) {
	rec := known.of(c.parcel, c.number)
	whole := !slices.Contains(c.read, false)
	if whole && rec != nil && rec.Blank() {
		rec = nil // what comes to be where all was zero is cut as it would be anywhere
	}
	if !whole && rec == nil {
		return c.blind(known.rec)
	}
	for n, read := range c.read {
		if !read {
			c.now[n] = rec.Hashes[n]
		}
	}
	changed := 0
	if rec != nil {
		for n := range c.now {
			if rec.Hashes[n] != c.now[n] {
				rec.Changed.Add(n)
				changed++
			}
		}
	}
	switch {
	case rec != nil && changed == 0:
		c.unchanged(0, len(c.now))
		c.parcel.Blocks = sidecar.Same(c.parcel.Blocks)
		return true
	case c.zero():
		c.add(flow.Piece{Length: uint32(len(c.bytes)), Zero: true}, 0)
		c.parcel.Blocks = sidecar.Zeros(c.parcel.Blocks)
		return false
	case rec != nil && (!whole || c.worthSplicing(rec)):
		c.splices(rec)
	default:
		rec = known.rec
		rec.Clear()
		c.afresh(rec)
	}
	copy(rec.Hashes, c.now)
	c.parcel.Blocks = sidecar.Append(c.parcel.Blocks, rec)
	return false
}

// blind finds the pieces of a cell of which only some blocks were read, and of which there
// is no record: what was read has changed, the rest is as the parent has it, and what
// that is stays unknown.
func (c *cell) blind(rec *sidecar.Record) (same bool) {
	unlike := chunk.BlockHash{1} // of no block: what is zero where nobody looked is not known
	if !slices.Contains(c.read, true) {
		c.blocks(0, len(c.now), flow.Piece{Verdict: flow.Unchanged})
		c.parcel.Blocks = sidecar.Same(c.parcel.Blocks)
		return true
	}
	rec.Clear()
	for n, read := range c.read {
		if !read {
			c.now[n] = unlike
		}
		if rec.Hashes[n] = c.now[n]; read {
			rec.Hashes[n][0] ^= 0xff
		}
	}
	c.splices(rec)
	c.parcel.Blocks = sidecar.Unknown(c.parcel.Blocks)
	return false
}

// zero reports whether all blocks of the cell are.
func (c *cell) zero() bool {
	for n := range c.now {
		if c.now[n] != (chunk.BlockHash{}) {
			return false
		}
	}
	return true
}

// afresh cuts the whole cell.
func (c *cell) afresh(rec *sidecar.Record) {
	c.cuts = c.Cutter.CutHashed(c.bytes, c.now, c.cuts[:0])
	for _, cut := range c.cuts {
		rec.Starts.Add(int(cut.Offset) / c.Blocks.Size())
		c.cutPiece(cut, 0)
	}
}

func (c *cell) cutPiece(cut chunk.Piece, from int64) {
	x := flow.Piece{Length: uint32(cut.Length), Zero: cut.Zero}
	if at := from + cut.Offset; !cut.Zero {
		x.Chunk = c.IDs.ID(c.bytes[at : at+cut.Length])
	}
	c.add(x, from+cut.Offset)
}

// add appends a piece that begins at at in the cell.
func (c *cell) add(x flow.Piece, at int64) {
	x.Offset = uint32(c.at + at)
	c.parcel.Pieces = append(c.parcel.Pieces, x)
}
