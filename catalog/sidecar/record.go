package sidecar

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/millrace-backup/millrace/chunk"
)

// Shape is how a disk is divided. All are bytes; Cell is a multiple of Block.
type Shape struct {
	Size, Cell, Block int64
}

// Cells is how many cells the disk has.
func (s Shape) Cells() int64 { return (s.Size + s.Cell - 1) / s.Cell }

// Blocks is how many blocks a cell has; the last one of a disk may have fewer.
func (s Shape) Blocks() int { return int(s.Cell / s.Block) }

// bytes of one set of blocks, and of a record without its checksum.
func (s Shape) set() int  { return (s.Blocks() + 7) / 8 }
func (s Shape) body() int { return 16*s.Blocks() + 2*s.set() }

const (
	maxCell   = 16 << 20
	maxBlocks = 1 << 15
	maxCells  = 1 << 40
)

func (s Shape) sane() bool {
	return s.Size > 0 && s.Block > 0 && s.Cell >= s.Block && s.Cell <= maxCell && s.Cell%s.Block == 0 && s.Blocks() <= maxBlocks && s.Cells() <= maxCells
}

// Set is a set of blocks of a cell.
type Set []byte

// Has reports whether block n is in the set.
func (s Set) Has(n int) bool { return s[n/8]&(1<<(n%8)) != 0 }

// Add puts block n into the set.
func (s Set) Add(n int) { s[n/8] |= 1 << (n % 8) }

// Drop takes block n out of the set.
func (s Set) Drop(n int) { s[n/8] &^= 1 << (n % 8) }

// Len is how many blocks are in the set.
func (s Set) Len() (n int) {
	for _, b := range s {
		n += bits.OnesCount8(b)
	}
	return n
}

// Record is what is known of one cell.
type Record struct {
	Hashes  []chunk.BlockHash // of a whole cell's blocks; zero behind the end of a disk
	Changed Set               // blocks that have changed since the cell was last cut
	Starts  Set               // blocks in which a piece of the map begins
}

// NewRecord returns an empty record for a cell.
func (s Shape) NewRecord() *Record {
	return &Record{Hashes: make([]chunk.BlockHash, s.Blocks()), Changed: make(Set, s.set()), Starts: make(Set, s.set())}
}

// Clear makes r an empty record.
func (r *Record) Clear() {
	clear(r.Hashes)
	clear(r.Changed)
	clear(r.Starts)
}

// Blank reports whether the record is that of a cell of zeros.
func (r *Record) Blank() bool {
	for i := range r.Hashes {
		if r.Hashes[i] != (chunk.BlockHash{}) {
			return false
		}
	}
	return true
}

func (r *Record) append(b []byte) []byte {
	for i := range r.Hashes {
		b = append(b, r.Hashes[i][:]...)
	}
	return append(append(b, r.Changed...), r.Starts...)
}

// parse reads a body of the right length.
func (r *Record) parse(b []byte) {
	for i := range r.Hashes {
		b = b[copy(r.Hashes[i][:], b):]
	}
	b = b[copy(r.Changed, b):]
	copy(r.Starts, b)
}

// When a cell is cut afresh instead of being spliced on: when as many of its blocks
// have changed since it was cut, or its map would have as many pieces, in eighths
// of its blocks. Cells that are written to alike would all come to it in
// one job; so each has a limit of its own, up to an eighth lower.
const (
	maxChanged = 4
	maxPieces  = 6
)

// Limits is how many changed blocks and pieces a cell of so many blocks may have before
// it is cut afresh.
func Limits(cell int64, blocks int) (changed, pieces int) {
	if blocks < 16 {
		return blocks / 2, blocks
	}
	// Spread evenly by a multiplication, as Knuth has it: neighbours lie far apart.
	lower := int(uint64(cell) * 0x9e3779b97f4a7c15 >> 32 * uint64(blocks/8) >> 32)
	return blocks*maxChanged/8 - lower, blocks*maxPieces/8 - lower
}

// What an update says of a cell. In a file that is in use there are only none, known
// and blank.
const (
	none    = 0 // nothing is known
	known   = 1 // there is a record
	same    = 2 // what the parent's sidecar has still holds
	zeros   = 3 // the cell is zero: no record
	unknown = 4 // whatever was known of it does not hold

	// blank is zeros as a file has it. It makes a cell without record count as
	// one of zeros, so it is more than one flipped bit away from all others.
	blank = 0xa9

	// stands is same as an update's file has it. It makes an older record count,
	// so it is more than one flipped bit away from all that makes none count.
	stands = 0x56
)

// Append adds to b, the records of a parcel, that of its next cell: r, or that the
// parent's record stands (Same), or that the cell is zero (Zeros).
func Append(b []byte, r *Record) []byte { return r.append(append(b, known)) }

// Same adds that the parent's record of the next cell stands.
func Same(b []byte) []byte { return append(b, same) }

// Unknown adds that there is no record of the next cell any more.
func Unknown(b []byte) []byte { return append(b, unknown) }

// Zeros adds that the next cell holds only zeros.
func Zeros(b []byte) []byte { return append(b, zeros) }

var errRecords = errors.New("malformed records of blocks")

// split takes the first cell off b.
func (s Shape) split(b []byte) (what byte, body, rest []byte, err error) {
	switch {
	case len(b) == 0 || b[0] < known || b[0] > unknown || b[0] == known && len(b) < 1+s.body():
		return 0, nil, nil, errRecords
	case b[0] == known:
		return known, b[1 : 1+s.body()], b[1+s.body():], nil
	}
	return b[0], nil, b[1:], nil
}

// Check reports whether b is what Append, Same, Zeros and Unknown make of as many cells.
func (s Shape) Check(b []byte, cells int) error {
	for range cells {
		var err error
		if _, _, b, err = s.split(b); err != nil {
			return err
		}
	}
	if len(b) != 0 {
		return errRecords
	}
	return nil
}

func number(n int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(n)) }
