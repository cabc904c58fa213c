package restore

import (
	"context"
	"errors"
	"iter"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// disk opens the map of the disk with index n in its point. What it returns walks
// the disk's pieces, checked; it can be called again.
func disk(ctx context.Context, v *vault.Vault, d events.PointDisk, n int) (func(context.Context) iter.Seq2[piece, error], error) {
	m, err := table.OpenMap(ctx, v, d)
	if err != nil {
		return nil, lostTable(err)
	}
	return func(ctx context.Context) iter.Seq2[piece, error] {
		return checked(func(yield func(piece, error) bool) {
			for p, err := range m.Range(ctx, 0, d.Size) {
				if !yield(fromTable(p, n), lostTable(err)) || err != nil {
					return
				}
			}
		}, d.Size)
	}, nil
}

// lostTable calls a missing table what it is: a point names it, so it was there.
func lostTable(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return asDamage(err)
	}
	return err
}

func fromTable(p table.MapPiece, disk int) piece {
	return piece{
		disk: disk, offset: p.Offset, length: p.Length, zero: p.Zero, chunkOffset: p.ChunkOffset,
		place: place{
			chunk: p.Chunk, domain: p.Domain, job: p.Pack.Job, pack: p.Pack.Name,
			at: int64(p.PackOffset), stored: int64(p.Stored), raw: int64(p.Raw),
		},
	}
}
