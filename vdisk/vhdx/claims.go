package vhdx

import (
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// claims is who has which part of the file.
type claims struct {
	taken mibs // by structures and by blocks that are read from there
	left  mibs // by absent blocks whose entries still name a place
}

// leave notes the place that the entry of an absent block or bitmap names, of
// length bytes in a file of size. It may be the block's own (an unmapped block
// keeps its place, section 2.5.1.1), so nothing else may go there; but nothing is
// read from it, so that it does no harm if it lies on something else.
func (c *claims) leave(e uint64, length, size int64) {
	at := e &^ (layout.StateMask | layout.ReservedMask)
	if at != 0 && at < uint64(size) {
		c.left.take(int64(at), min(length, size-int64(at)))
	}
}

// free returns the stretches of 0..size that nobody has claimed, at most limit of
// them.
func (c *claims) free(size int64, limit int) []vdisk.Extent {
	var out []vdisk.Extent
	size -= size % layout.MiB
	for at := int64(0); at < size; {
		taken, n := c.taken.run(at, size)
		left, m := c.left.run(at, size)
		n = min(n, m)
		switch last := len(out) - 1; {
		case taken || left:
		case last >= 0 && out[last].End() == at:
			out[last].Length += n
		case len(out) == limit:
			return out
		default:
			out = append(out, vdisk.Extent{Offset: at, Length: n})
		}
		at += n
	}
	return out
}

// mibs has a bit for every MiB of the file. They are kept in pieces, which are made
// as needed: 128 KiB for each TiB.
type mibs struct {
	pieces [layout.MaxFileSize / claimPiece]*[claimPiece / layout.MiB / 64]uint64
}

const claimPiece = 64 << 30 // bytes of the file

// claim takes the MiBs that off..off+length touches and reports whether all
// were free. off is a multiple of 1 MiB and the end not beyond MaxFileSize.
func (c *mibs) claim(off, length int64) bool { return c.set(off, length, true) }

// take is claim where it does not matter who was there before.
func (c *mibs) take(off, length int64) { c.set(off, length, false) }

func (c *mibs) set(off, length int64, alone bool) bool {
	at, end := off/layout.MiB, (off+length+layout.MiB-1)/layout.MiB
	for at < end {
		piece := &c.pieces[at/(claimPiece/layout.MiB)]
		if *piece == nil {
			*piece = new([claimPiece / layout.MiB / 64]uint64)
		}
		word, bit := at%(claimPiece/layout.MiB)/64, at%64
		n := min(64-bit, end-at)
		mask := (^uint64(0) >> (64 - n)) << bit
		if alone && (*piece)[word]&mask != 0 {
			return false
		}
		(*piece)[word] |= mask
		at += n
	}
	return true
}

// run reports whether the MiB at off is taken, and for how many bytes, not beyond
// to, that may be said at once.
func (c *mibs) run(off, to int64) (bool, int64) {
	piece := c.pieces[off/claimPiece]
	if piece == nil {
		return false, min(to, (off/claimPiece+1)*claimPiece) - off
	}
	word := piece[off%claimPiece/layout.MiB/64]
	if off%(64*layout.MiB) == 0 && (word == 0 || word == ^uint64(0)) {
		return word != 0, min(to-off, 64*layout.MiB)
	}
	return word&(1<<(off/layout.MiB%64)) != 0, layout.MiB
}
