package restore

import (
	"context"
	"iter"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// piece is a range of a disk and where its bytes lie. All numbers are bytes.
type piece struct {
	disk        int // index into the point's disks
	offset      int64
	length      int64
	zero        bool
	chunkOffset int64
	place
}

// place is where a chunk lies.
type place struct {
	chunk           id.Chunk
	domain          id.Domain
	job             id.Job
	pack            id.Object
	at, stored, raw int64
}

func (p place) end() int64 { return p.at + p.stored }

// check holds a piece that comes from a table to what the code here relies on:
// the pieces cover the disk, and no size is beyond what a pack can hold.
func (p piece) check(from, size int64) error {
	where := "map of the disk"
	switch {
	case p.offset != from || p.length <= 0 || p.length > size-p.offset:
		return damaged(where, "a piece of %d bytes at %d, where one at %d was due", p.length, p.offset, from)
	case p.zero:
		return nil
	case p.raw <= 0 || p.raw > vault.MaxChunk || p.chunkOffset < 0 || p.chunkOffset > p.raw-p.length:
		return damaged(where, "at %d: bytes %d to %d of a chunk of %d", p.offset, p.chunkOffset, p.chunkOffset+p.length, p.raw)
	case p.at < 0 || p.stored <= 0 || p.stored > vault.MaxChunk+vault.Overhead+16 || p.end() > vault.MaxPack:
		return damaged(where, "at %d: a chunk of %d bytes at %d of a pack", p.offset, p.stored, p.at)
	}
	return nil
}

// checked passes pieces on as long as they hold up, and says so when they do not
// reach the end.
func checked(pieces iter.Seq2[piece, error], size int64) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		var at int64
		for p, err := range pieces {
			if err == nil {
				err = p.check(at, size)
			}
			if !yield(p, err) || err != nil {
				return
			}
			at += p.length
		}
		if at != size {
			yield(piece{}, damaged("map of the disk", "it ends at %d of %d", at, size))
		}
	}
}

// batch is what one worker takes at a time: the pieces of a stretch of disk, zeros
// left out, and how many bytes of disk they settle.
type batch struct {
	pieces []piece
	covers int64
}

// batchLimit is the most pieces of a batch. A cell has fewer unless it is a
// patchwork of single blocks.
const batchLimit = 4096

// window is how many bytes of disk a batch covers: whole cells, because the pieces
// of a cell share chunks.
func window(cell int64) int64 {
	const least = 8 << 20
	cell = min(max(cell, 4<<10), vault.MaxChunk)
	return (least + cell - 1) / cell * cell
}

// planner gathers pieces into batches and sends them.
type planner struct {
	out    chan<- batch
	window int64
	next   batch
	cell   int64 // number of the window that next belongs to
}

// add takes the next piece in order; wanted says whether its bytes are needed.
func (pl *planner) add(ctx context.Context, p piece, wanted bool) error {
	if n := p.offset / pl.window; n != pl.cell || len(pl.next.pieces) == batchLimit {
		if err := pl.flush(ctx); err != nil {
			return err
		}
		pl.cell = n
	}
	pl.next.covers += p.length
	if wanted {
		pl.next.pieces = append(pl.next.pieces, p)
	}
	return nil
}

func (pl *planner) flush(ctx context.Context) error {
	if pl.next.covers == 0 {
		return nil
	}
	select {
	case pl.out <- pl.next:
		pl.next = batch{}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
