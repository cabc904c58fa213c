package chunk

import (
	"bytes"
	"encoding/binary"
)

// zeros finds block-aligned zero runs.
type zeros struct {
	block, run int    // bytes; run is a multiple of block
	none       []byte // one block of zeros
}

// next returns the first zero run at or after at, which is block-aligned, as
// [from, to); len(cell), len(cell) if there is none.
//
// A run has at least run/block whole blocks, so one of any run/block blocks in a
// row lies in it: it is enough to look at every run/block-th and to widen what is
// found. On data that costs one look per 16 KiB.
func (z *zeros) next(cell []byte, at int) (from, to int) {
	if at == 0 && len(cell) < z.run && z.zero(cell) {
		return 0, len(cell)
	}
	for probe := at + z.run - z.block; probe < len(cell); probe += z.run {
		if !z.zero(cell[probe:min(probe+z.block, len(cell))]) {
			continue
		}
		from, to = probe, probe
		for from > at && z.zero(cell[from-z.block:from]) {
			from -= z.block
		}
		for to < len(cell) && z.zero(cell[to:min(to+z.block, len(cell))]) {
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

// zero reports whether b, at most a block or a short cell, holds only zeros. Most
// data shows in the first word.
func (z *zeros) zero(b []byte) bool { return zeroed(b, z.none) }

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
