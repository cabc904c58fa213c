package flow

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// Verdict is what delta found out about a piece.
type Verdict uint8

// The verdicts. Values are on the wire and in journals; append only.
const (
	Undecided Verdict = iota // as cut
	Unchanged                // the parent point's map says the same: nothing to write
	Known                    // the chunk is durable in the vault: refer to it
	New                      // store it
)

// Piece is a part of a parcel: a chunk, a part of one, or a run of zeros. The pieces
// of a parcel cover it without a gap, in order. The parts of one chunk (a splice)
// all have the same Verdict, At and Stored.
type Piece struct {
	Offset  uint32 // in the parcel
	Length  uint32
	Zero    bool
	Verdict Verdict
	Chunk   id.Chunk // unless Zero, or Unchanged and not asked for
	From    uint32   // its offset in the chunk
	Raw     uint32   // bytes of the whole chunk; 0: the chunk is this piece
	At      uint32   // if Stored; seal: offset in the sealed slot; uploader: offset in the pack
	Stored  uint32   // sealed length; 0 before seal
}

// Pieces has a wire form of its own: a parcel carries about 60 of them.
type Pieces []Piece

// MaxPieces bounds the pieces of one parcel on the wire.
const MaxPieces = 1 << 20

const (
	flagZero   = 1 << 4
	flagStored = 1 << 5
	flagPart   = 1 << 6
	maxReach   = 1 << 31 // of lengths and places, in bytes
)

var errPieces = errors.New("malformed pieces")

// fits: a part lies in its chunk, which is longer; only data is a part of something.
func (x *Piece) fits() bool {
	return x.Raw == 0 && x.From == 0 || !x.Zero && x.Raw <= maxReach && x.Length < x.Raw && x.From <= x.Raw-x.Length
}

// Size is how many bytes the piece's chunk has.
func (x *Piece) Size() uint32 { return max(x.Raw, x.Length) }

// MarshalBinary writes count, then per piece: flags with the verdict, length,
// the chunk id unless zero, where in the chunk if it is a part, and place and
// stored length once it is stored. Offsets follow from the lengths. Pieces that
// UnmarshalBinary would refuse are refused.
func (p Pieces) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 5+len(p)*(1+3+32+8))
	b = binary.AppendUvarint(b, uint64(len(p)))
	at := uint32(0)
	for i := range p {
		x := &p[i]
		if x.Offset != at || x.Length == 0 || x.Length > maxReach-at || x.Verdict > New || x.At > maxReach || x.Stored > maxReach || !x.fits() {
			return nil, fmt.Errorf("%w: piece %d after %d bytes: %+v", errPieces, i, at, *x)
		}
		at += x.Length
		b = binary.AppendUvarint(append(b, x.flags()), uint64(x.Length))
		if !x.Zero {
			b = append(b, x.Chunk[:]...)
		}
		if x.Raw != 0 {
			b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(x.From)), uint64(x.Raw))
		}
		if x.Stored != 0 {
			b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(x.At)), uint64(x.Stored))
		}
	}
	return b, nil
}

func (x *Piece) flags() byte {
	flags := byte(x.Verdict)
	if x.Zero {
		flags |= flagZero
	}
	if x.Stored != 0 {
		flags |= flagStored
	}
	if x.Raw != 0 {
		flags |= flagPart
	}
	return flags
}

// UnmarshalBinary reads what MarshalBinary wrote and refuses all else.
func (p *Pieces) UnmarshalBinary(b []byte) error {
	c := cursor{events.Cut{Rest: b}}
	n := c.number(MaxPieces)
	if c.Bad || int(n) > len(c.Rest)/2 {
		return fmt.Errorf("%w: %d pieces in %d bytes", errPieces, n, len(b))
	}
	out, at := make(Pieces, n), uint32(0)
	for i := range out {
		if out[i] = c.piece(at); c.Bad {
			return fmt.Errorf("%w: piece %d", errPieces, i)
		}
		at += out[i].Length
	}
	if len(c.Rest) != 0 {
		return fmt.Errorf("%w: %d bytes left over", errPieces, len(c.Rest))
	}
	*p = out
	return nil
}

type cursor struct{ events.Cut }

// piece reads the piece that begins at at.
func (c *cursor) piece(at uint32) (x Piece) {
	flags := byte(c.number(flagZero | flagStored | flagPart | 0xf))
	x = Piece{Offset: at, Length: c.number(uint64(maxReach - at)), Zero: flags&flagZero != 0, Verdict: Verdict(flags & 0xf)}
	if !x.Zero {
		copy(x.Chunk[:], c.Bytes(len(x.Chunk)))
	}
	if flags&flagPart != 0 {
		x.From, x.Raw = c.number(maxReach), c.number(maxReach)
	}
	if flags&flagStored != 0 {
		x.At, x.Stored = c.number(maxReach), c.number(maxReach)
	}
	c.Bad = c.Bad || x.Length == 0 || x.Verdict > New || !x.fits() || x.flags() != flags
	return x
}

func (c *cursor) number(most uint64) uint32 {
	n := c.Uvarint()
	c.Bad = c.Bad || n > most
	return uint32(n)
}
