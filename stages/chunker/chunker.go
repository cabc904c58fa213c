package chunker

import (
	"context"
	"fmt"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
)

type stage struct {
	cell   int64
	cutter chunk.Cutter
	ids    *chunk.IDs
	cuts   []chunk.Piece
}

// Run is the stage: cutter and ids are those of the job's dedup domain.
func Run(ctx context.Context, w *flow.Worker, cutter chunk.Cutter, ids *chunk.IDs) error {
	s := &stage{cell: w.Config.Work.CellSize, cutter: cutter, ids: ids}
	return w.Pump(ctx, arena.NoSlot, s.cut)
}

func (s *stage) cut(_ context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
	if !d.Live() {
		return "", nil, nil
	}
	err := s.parcel(d.Parcel, d.Bytes())
	if !d.Live() { // what was hashed may have been another parcel's bytes
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	return flow.Delta, d.Parcel, nil
}

// parcel cuts the cells of p, whose bytes are b.
func (s *stage) parcel(p *flow.Parcel, b []byte) error {
	if p.Offset%s.cell != 0 || int64(len(b)) != p.Length {
		return &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "cut", Object: p.String(), Cause: fmt.Sprintf("%d bytes at %d are not whole cells", len(b), p.Offset), Remedy: "report this"}
	}
	p.Pieces = p.Pieces[:0]
	for at := int64(0); at < p.Length; at += s.cell {
		cell := b[at:min(at+s.cell, p.Length)]
		s.cuts = s.cutter.Cut(cell, s.cuts[:0])
		for _, c := range s.cuts {
			x := flow.Piece{Offset: uint32(at + c.Offset), Length: uint32(c.Length), Zero: c.Zero}
			if !c.Zero {
				x.Chunk = s.ids.ID(cell[c.Offset : c.Offset+c.Length])
			}
			p.Pieces = append(p.Pieces, x)
		}
	}
	return nil
}
