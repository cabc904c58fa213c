package layers

import (
	"context"
	"encoding/binary"
	"iter"

	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/ledger/table"
)

// overlay lists what was found that differs from the parent, in order: chunks,
// and zeros where the parent has data. Which zeros these are follows from the two
// disks alone and not from how this one was cut into parcels.
func (d *disk) overlay(ctx context.Context) iter.Seq2[table.MapPiece, error] {
	return func(yield func(table.MapPiece, error) bool) {
		var gap struct{ from, to int64 } // zero, and not yet looked up in the parent
		for p, err := range d.Found(ctx) {
			switch {
			case err != nil:
				yield(table.MapPiece{}, err)
				return
			case p.Zero && p.Offset == gap.to:
				gap.to += p.Length
				continue
			case !d.zeros(ctx, gap.from, gap.to, yield):
				return
			}
			gap.from, gap.to = p.Offset, p.Offset+p.Length
			if !p.Zero {
				gap.from = gap.to
				if !yield(p, nil) {
					return
				}
			}
		}
		d.zeros(ctx, gap.from, gap.to, yield)
	}
}

// zeros yields a zero piece for every range in which the parent has data.
func (d *disk) zeros(ctx context.Context, from, to int64, yield func(table.MapPiece, error) bool) bool {
	if d.parent == nil || from >= to {
		return true
	}
	var run table.MapPiece // not yet yielded
	for p, err := range d.parent.Range(ctx, from, min(to, d.parent.Size())) {
		switch {
		case err != nil:
			yield(table.MapPiece{}, err)
			return false
		case p.Zero:
		case run.Length > 0 && run.Offset+run.Length == p.Offset:
			run.Length += p.Length
		case run.Length > 0 && !yield(run, nil):
			return false
		default:
			run = table.MapPiece{Offset: p.Offset, Length: p.Length, Zero: true}
		}
	}
	return run.Length == 0 || yield(run, nil)
}

// piece is a MapPiece whose pack is a number.
type piece struct {
	table.MapPiece
	pack uint32
}

const (
	pieceBytes = 1 + 8 + 8 + 32 + 5*4
	pieceBlock = 400 * pieceBytes
)

// appendPiece encodes: zero u8 ‖ offset u64 ‖ length u64 ‖ chunk 32 ‖ offset in
// the chunk, pack, offset in the pack, stored, raw u32, little-endian.
func (w *writer) appendPiece(b []byte, p table.MapPiece) []byte {
	zero, pack := byte(1), uint32(0)
	if !p.Zero {
		zero, pack = 0, w.numbers[p.Pack]
	}
	b = append(b, zero)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Length))
	b = append(b, p.Chunk[:]...)
	for _, n := range []uint32{uint32(p.ChunkOffset), pack, p.PackOffset, p.Stored, p.Raw} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

func decodePiece(b []byte) (p piece) {
	n := func(at int) uint32 { return binary.LittleEndian.Uint32(b[49+4*at:]) }
	p.Zero = b[0] != 0
	p.Offset, p.Length = int64(binary.LittleEndian.Uint64(b[1:])), int64(binary.LittleEndian.Uint64(b[9:]))
	copy(p.Chunk[:], b[17:])
	p.ChunkOffset, p.pack, p.PackOffset, p.Stored, p.Raw = int64(n(0)), n(1), n(2), n(3), n(4)
	return p
}

// keep puts the pieces of a block into the scratch file and returns room for more.
func (d *disk) keep(scratch *spill.Log, block []byte) ([]byte, error) {
	if len(block) == 0 {
		return block, nil
	}
	at, err := scratch.Append(block)
	d.blocks = append(d.blocks, at)
	return block[:0], err
}

// pieces yields a disk's pieces as they were gathered.
func (w *writer) pieces(d *disk) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		var room []byte
		for _, at := range d.blocks {
			var err error
			if room, err = w.scratch.Read(at, room); err == nil && len(room)%pieceBytes != 0 {
				err = spill.ErrDamaged
			}
			if err != nil {
				yield(piece{}, err)
				return
			}
			for b := room; len(b) > 0; b = b[pieceBytes:] {
				if !yield(decodePiece(b[:pieceBytes]), nil) {
					return
				}
			}
		}
	}
}
