package chunk

import (
	"bytes"
	"encoding/binary"
)

// zeros finds block-aligned zero runs.
type zeros struct {
	block, run int         // bytes; run is a multiple of block
	none       []byte      // one block of zeros
	known      []BlockHash // of the cell's blocks; nil: look
}

// next returns the first zero run at or after at, which is block-aligned, as
// [from, to); len(cell), len(cell) if there is none.
//
// A run has at least run/block whole blocks, so one of any run/block blocks in a
// row lies in it: it is enough to look at every run/block-th and to widen what is
// found. On data that costs one look per 16 KiB.
func (z *zeros) next(cell []byte, at int) (from, to int) {
	if at == 0 && len(cell) < z.run && z.all(cell) {
		return 0, len(cell)
	}
	for probe := at + z.run - z.block; probe < len(cell); probe += z.run {
		if !z.at(cell, probe) {
			continue
		}
		from, to = probe, probe
		for from > at && z.at(cell, from-z.block) {
			from -= z.block
		}
		for to < len(cell) && z.at(cell, to) {
			to = min(to+z.block, len(cell))
		}
		if to-from >= z.run {
			return from, to
		}
		if to == len(cell) {
			break
		}
		// The block at to is data: the next run begins after it at the earliest,
		// and its first run/block blocks hold the next probe.
		probe = to
	}
	return len(cell), len(cell)
}

// at reports whether the block that begins at at holds only zeros.
func (z *zeros) at(cell []byte, at int) bool {
	if z.known != nil {
		return z.known[at/z.block] == BlockHash{}
	}
	return zeroed(cell[at:min(at+z.block, len(cell))], z.none)
}

// all reports whether a short cell holds only zeros.
func (z *zeros) all(cell []byte) bool {
	for at := 0; at < len(cell); at += z.block {
		if !z.at(cell, at) {
			return false
		}
	}
	return true
}

// zeroed: most data shows in the first word.
func zeroed(b, none []byte) bool {
	if len(b) >= 8 && binary.LittleEndian.Uint64(b) != 0 {
		return false
	}
	for len(b) > len(none) {
		if !bytes.Equal(b[:len(none)], none) {
			return false
		}
		b = b[len(none):]
	}
	return bytes.Equal(b, none[:len(b)])
}
