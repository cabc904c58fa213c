package flow

import (
	"encoding/binary"
	"errors"
	"fmt"

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

// Piece is a part of a parcel: a chunk or a run of zeros. The pieces of a parcel
// cover it without a gap, in order.
type Piece struct {
	Offset  uint32 // in the parcel
	Length  uint32
	Zero    bool
	Verdict Verdict
	Chunk   id.Chunk // unless Zero
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

	maxReach = 1 << 31 // of lengths and places, in bytes
)

var errPieces = errors.New("malformed pieces")

// MarshalBinary writes count, then per piece: flags with the verdict, length,
// the chunk id unless zero, and place and stored length once it is stored. Offsets
// follow from the lengths. Pieces that UnmarshalBinary would refuse are refused.
func (p Pieces) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 5+len(p)*(1+3+32+8))
	b = binary.AppendUvarint(b, uint64(len(p)))
	at := uint32(0)
	for i := range p {
		x := &p[i]
		if x.Offset != at {
			return nil, fmt.Errorf("%w: piece %d begins at %d, its neighbour ends at %d", errPieces, i, x.Offset, at)
		}
		if x.Length == 0 || x.Length > maxReach-at || x.Verdict > New || x.At > maxReach || x.Stored > maxReach {
			return nil, fmt.Errorf("%w: piece %d of %d bytes, verdict %d, stored as %d at %d", errPieces, i, x.Length, x.Verdict, x.Stored, x.At)
		}
		at += x.Length
		flags := byte(x.Verdict)
		if x.Zero {
			flags |= flagZero
		}
		if x.Stored != 0 {
			flags |= flagStored
		}
		b = append(b, flags)
		b = binary.AppendUvarint(b, uint64(x.Length))
		if !x.Zero {
			b = append(b, x.Chunk[:]...)
		}
		if x.Stored != 0 {
			b = binary.AppendUvarint(b, uint64(x.At))
			b = binary.AppendUvarint(b, uint64(x.Stored))
		}
	}
	return b, nil
}

// UnmarshalBinary reads what MarshalBinary wrote and refuses all else.
func (p *Pieces) UnmarshalBinary(b []byte) error {
	n, b, err := uvarint(b)
	if err != nil || n > MaxPieces || n > uint64(len(b))/2 {
		return fmt.Errorf("%w: %d pieces in %d bytes", errPieces, n, len(b))
	}
	out := make(Pieces, 0, n)
	at := uint64(0)
	for range n {
		var x Piece
		if len(b) == 0 {
			return errPieces
		}
		flags := b[0]
		x.Verdict, x.Zero = Verdict(flags&0xf), flags&flagZero != 0
		if x.Verdict > New || flags&^(0xf|flagZero|flagStored) != 0 {
			return fmt.Errorf("%w: flags %#x", errPieces, flags)
		}
		length, rest, err := uvarint(b[1:])
		if err != nil || length == 0 || length > maxReach-at {
			return fmt.Errorf("%w: a piece of %d bytes", errPieces, length)
		}
		x.Offset, x.Length = uint32(at), uint32(length)
		at += length
		if b = rest; !x.Zero {
			if len(b) < len(x.Chunk) {
				return errPieces
			}
			copy(x.Chunk[:], b)
			b = b[len(x.Chunk):]
		}
		if flags&flagStored != 0 {
			var where, stored uint64
			if where, b, err = uvarint(b); err != nil || where > maxReach {
				return errPieces
			}
			if stored, b, err = uvarint(b); err != nil || stored == 0 || stored > maxReach {
				return errPieces
			}
			x.At, x.Stored = uint32(where), uint32(stored)
		}
		out = append(out, x)
	}
	if len(b) != 0 {
		return fmt.Errorf("%w: %d bytes left over", errPieces, len(b))
	}
	*p = out
	return nil
}

// uvarint reads a number that is written the shortest way.
func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, b, errPieces
	}
	return v, b[n:], nil
}
