package indexer

import (
	"context"
	"iter"

	"github.com/millrace-backup/millrace/catalog/rows"
	"github.com/millrace-backup/millrace/ledger/table"
)

// found lists what the job found of a disk and does not know to be as in the
// parent, in order: chunks, zeros, and holes, which are zeros too. ends takes for
// each pack how far into it chunks reach.
func (s *state) found(n uint32, ends map[uint32]int64) func(context.Context) iter.Seq2[table.MapPiece, error] {
	d := &s.disks[n]
	size, parcel := s.work.Disks[n].Info.VirtualSize, s.work.ParcelSize
	return func(context.Context) iter.Seq2[table.MapPiece, error] {
		return func(yield func(table.MapPiece, error) bool) {
			next, stop := iter.Pull2(d.rows.All())
			defer stop()
			at, err, more := next()
			for k := range s.work.Parcels(int(n)) {
				start := int64(k) * parcel
				if !d.has(k) && !d.incremental() && !yield(table.MapPiece{Offset: start, Length: min(parcel, size-start), Zero: true}, nil) {
					return
				}
				if err != nil {
					yield(table.MapPiece{}, err)
					return
				}
				if !more || at.Number != k {
					continue
				}
				for r := range at.Rows() {
					if !yield(s.piece(start, r, ends), nil) {
						return
					}
				}
				at, err, more = next()
			}
		}
	}
}

// piece is a row with the place of its chunk.
func (s *state) piece(start int64, r rows.Row, ends map[uint32]int64) table.MapPiece {
	p := table.MapPiece{Offset: start + int64(r.Offset), Length: int64(r.Length), Zero: r.Zero}
	if r.Zero {
		return p
	}
	k := &s.packs[r.Pack]
	if ends != nil {
		ends[r.Pack] = max(ends[r.Pack], int64(r.At)+int64(r.Stored))
	}
	p.Chunk, p.ChunkOffset, p.Domain, p.Pack = r.Chunk, int64(r.From), s.work.Domain, table.PackRef{Job: k.job, Name: k.Name}
	p.PackOffset, p.Stored, p.Raw = r.At, r.Stored, r.Raw
	return p
}
