package chunk

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math"

	"github.com/zeebo/xxh3"
)

// aligned decides block by block. For a block of bytes B, with a seed (8 bytes,
// little-endian) and an AES-256 key (32 bytes) derived from the cut key:
//
//	v = first 8 bytes, big-endian, of AES(XXH3-128(B, seed) in its canonical form)
//
// A chunk ends after the block that makes it at least Min long and has v below a
// limit, and at Max. The limit is strict while the chunk is shorter than Normal
// and loose from there on, which draws the lengths together: with N = Normal /
// Block, the strict chance is 2/3N a block, the loose one four times that. At 16,
// 64 and 256 KiB this gives a mean of 64.8 KiB and a standard deviation of 30 KiB;
// 1 chunk in 10,000 is cut by Max.
//
// The hash gathers the block fast but is no match for someone who picks blocks and
// looks at lengths; the block cipher over it is a pseudo-random function of the
// hash, so that lengths tell nothing but which blocks are equal.
type aligned struct {
	block, min, normal, max int
	strict, loose           uint64
	seed                    uint64
	prf                     cipher.Block
	buf                     [aes.BlockSize]byte // here and not on the stack: prf is an interface, it would escape
}

func newAligned(p Params, cutKey [32]byte) (*aligned, error) {
	keys := derive(Aligned, cutKey, 8+32)
	prf, err := aes.NewCipher(keys[8:])
	if err != nil {
		return nil, err
	}
	unit := math.MaxUint64 / (3 * uint64(p.Normal/p.Block))
	return &aligned{
		block: int(p.Block), min: int(p.Min), normal: int(p.Normal), max: int(p.Max),
		strict: 2 * unit, loose: loose(unit),
		seed: binary.LittleEndian.Uint64(keys), prf: prf,
	}, nil
}

// loose is eight units, or certainty where blocks are so large that Normal has
// fewer than three.
func loose(unit uint64) uint64 {
	if unit > math.MaxUint64/8 {
		return math.MaxUint64
	}
	return 8 * unit
}

func (a *aligned) split(cell []byte, from, to int, dst []Piece) []Piece {
	for from < to {
		end := a.end(cell, from, to)
		dst = append(dst, Piece{Offset: int64(from), Length: int64(end - from)})
		from = end
	}
	return dst
}

// end is where the chunk that begins at from ends. Blocks that cannot end it are
// not hashed.
func (a *aligned) end(cell []byte, from, to int) int {
	limit := min(to, from+a.max)
	for at := from + a.min - a.block; at+a.block < limit; at += a.block {
		threshold := a.strict
		if at+a.block-from >= a.normal {
			threshold = a.loose
		}
		if a.value(cell[at:at+a.block]) < threshold {
			return at + a.block
		}
	}
	return limit
}

func (a *aligned) value(block []byte) uint64 {
	h := xxh3.Hash128Seed(block, a.seed)
	binary.BigEndian.PutUint64(a.buf[:8], h.Hi)
	binary.BigEndian.PutUint64(a.buf[8:], h.Lo)
	a.prf.Encrypt(a.buf[:], a.buf[:])
	return binary.BigEndian.Uint64(a.buf[:8])
}
