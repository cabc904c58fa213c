// Package chunk cuts a cell of guest disk where its content says so, and names
// the pieces.
//
// Start with [Default] and [New] for a [Cutter], and [NewIDs] for the names. Both
// are made from keys of the dedup domain, both are for one goroutine each.
//
// Words. A *cell* is an aligned stretch of guest disk (4 MiB), the unit of
// cutting; the last one of a disk may be shorter, even one byte. A *block* is 4 KiB.
// A *piece* is a stretch of a cell: a chunk, or a zero run, which has no chunk.
//
// What is guaranteed: the pieces of a cell are a pure function of all its bytes,
// the [Params] and the key. They do not depend on which cells were cut before, on
// neighbours, nor on how the bytes arrived; a hole is zeros. They cover the cell
// in order without gaps. Equal bytes under equal parameters and key give equal
// pieces in every version of this package from here on: golden files hold it to
// that, because a changed cut is a disk stored twice.
//
// Why cuts are keyed: the lengths of chunks are visible to whoever holds the
// vault, and unkeyed cuts tell which known file they come from. A cut here is
// decided by a block cipher over a keyed hash, and a chunk's name is keyed too, so
// neither lets a stranger confirm a guess.
//
// The package does no I/O, starts no goroutine and keeps no state between cells
// but its buffers, so that after the first cell nothing is allocated.
package chunk

import (
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// The cutters New knows, by the names that vaults record.
const (
	// Aligned decides once per block, so every cut is block-aligned (but for the
	// end of a disk). It is the default: file systems allocate in blocks.
	Aligned = "aligned"
	// Fixed cuts at multiples of Normal from the cell's start.
	Fixed = "fixed"
	// FastCDC cuts anywhere: github.com/PlakarKorp/go-cdc-chunkers under exactly
	// this name. (Its other FastCDC names are legacy: their masks are made for
	// 8 KiB, whatever size is asked for.)
	FastCDC = "fastcdc-v1.0.0"
)

// MaxChunk is the most a Params may give as Max, in bytes: a cell.
const MaxChunk = 4 << 20

// ErrParams says that cutter parameters make no sense or name no cutter. A vault
// whose parameters give this error was made by a newer version, or is damaged.
var ErrParams = errors.New("chunk: unusable cutter parameters")

// Piece is a stretch of a cell: Offset and Length in bytes from the cell's start.
// A Zero piece holds only zeros and has no chunk.
type Piece struct {
	Offset, Length int64
	Zero           bool
}

// Cutter cuts one cell at a time. It is for one goroutine; make one for each.
type Cutter interface {
	// Cut appends the pieces of cell to dst and returns it. The pieces are a
	// gap-free cover of the cell in order, none empty; an empty cell has none.
	// The cell is only read and not kept.
	Cut(cell []byte, dst []Piece) []Piece
	// CutHashed is Cut of a cell whose blocks, of Params.Block bytes, have these
	// hashes, one each (see Blocks). It cuts alike and does not look for zeros
	// again, which in a cell that is mostly a hole is nearly all there is to do.
	CutHashed(cell []byte, hashes []BlockHash, dst []Piece) []Piece
}

// Params choose a cutter; they are recorded in the vault for each dedup domain and
// never change there. Sizes are in bytes.
//
// Chunks are about Normal long, at most Max, and at least Min but before a zero
// run, after one and at the end of the cell. A stretch of at least ZeroRun zero
// bytes that begins and ends at multiples of Block (or at the end of the cell) is
// a zero run, for every cutter, as is a cell of nothing but zeros however short.
type Params struct {
	Name    string `json:"name"`
	Min     int32  `json:"min"`
	Normal  int32  `json:"normal"`
	Max     int32  `json:"max"`
	Block   int32  `json:"block"`
	ZeroRun int32  `json:"zero_run"`
}

// Default is what new vaults use: aligned, 16, 64 and 256 KiB, blocks of 4 KiB
// and zero runs from 16 KiB.
func Default() Params {
	return Params{Name: Aligned, Min: 16 << 10, Normal: 64 << 10, Max: 256 << 10, Block: 4 << 10, ZeroRun: 16 << 10}
}

// Check returns nil if New would take p, else an error wrapping ErrParams.
func (p Params) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrParams, fmt.Sprintf(format, args...))
	}
	switch {
	case p.Name != Aligned && p.Name != Fixed && p.Name != FastCDC:
		return bad("no cutter is called %q", p.Name)
	case p.Block < 512 || p.Block > 64<<10 || p.Block&(p.Block-1) != 0:
		return bad("block of %d bytes is no power of two from 512 to 64 Ki", p.Block)
	case p.Min < p.Block || p.Min >= p.Normal || p.Normal >= p.Max || p.Max > MaxChunk:
		return bad("sizes must be block %d <= min %d < normal %d < max %d <= %d", p.Block, p.Min, p.Normal, p.Max, MaxChunk)
	case p.Min%p.Block != 0 || p.Normal%p.Block != 0 || p.Max%p.Block != 0:
		return bad("min %d, normal %d and max %d must be multiples of the block %d", p.Min, p.Normal, p.Max, p.Block)
	case p.ZeroRun < p.Block || p.ZeroRun%p.Block != 0 || p.ZeroRun > MaxChunk:
		return bad("zero run of %d bytes is no multiple of the block %d up to %d", p.ZeroRun, p.Block, MaxChunk)
	case p.Name == FastCDC && p.Normal&(p.Normal-1) != 0:
		return bad("normal size %d must be a power of two for %s", p.Normal, FastCDC)
	}
	return nil
}

// New returns a cutter for one goroutine. cutKey is the dedup domain's cut key.
func New(p Params, cutKey [32]byte) (Cutter, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	z := zeros{block: int(p.Block), run: int(p.ZeroRun), none: make([]byte, p.Block)}
	switch p.Name {
	case Aligned:
		a, err := newAligned(p, cutKey)
		return &framed{z, a}, err
	case Fixed:
		return &framed{z, grid(p.Normal)}, nil
	default:
		f, err := newFastCDC(p, cutKey)
		return &framed{z, f}, err
	}
}

// derive makes n bytes of key for one purpose out of the cut key. BLAKE3's key
// derivation keeps purposes apart.
func derive(purpose string, key [32]byte, n int) []byte {
	out := make([]byte, n)
	blake3.DeriveKey("millrace 2026 chunk "+purpose, key[:], out)
	return out
}

// splitter cuts what lies between zero runs: cell[from:to), appending pieces that
// cover it. Whatever it decides by must lie inside that stretch.
type splitter interface {
	split(cell []byte, from, to int, dst []Piece) []Piece
}

// framed is every cutter: zero runs first, the same for all, then a splitter for
// the data between them. The edges of zero runs are cuts.
type framed struct {
	zeros zeros
	data  splitter
}

func (f *framed) CutHashed(cell []byte, hashes []BlockHash, dst []Piece) []Piece {
	f.zeros.known = hashes
	dst = f.Cut(cell, dst)
	f.zeros.known = nil
	return dst
}

func (f *framed) Cut(cell []byte, dst []Piece) []Piece {
	for at := 0; at < len(cell); {
		from, to := f.zeros.next(cell, at)
		if at < from {
			dst = f.data.split(cell, at, from, dst)
		}
		if from < to {
			dst = append(dst, Piece{Offset: int64(from), Length: int64(to - from), Zero: true})
		}
		at = to
	}
	return dst
}

// grid is the fixed cutter: multiples of its value from the cell's start.
type grid int

func (g grid) split(cell []byte, from, to int, dst []Piece) []Piece {
	for from < to {
		end := min(to, (from/int(g)+1)*int(g))
		dst = append(dst, Piece{Offset: int64(from), Length: int64(end - from)})
		from = end
	}
	return dst
}
