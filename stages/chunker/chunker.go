package chunker

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
)

// Tools are what the stage works with, all of the job's dedup domain and its cutter's
// parameters.
type Tools struct {
	Cutter chunk.Cutter
	IDs    *chunk.IDs
	Blocks *chunk.Blocks
}

type stage struct {
	Tools
	cell  int64
	work  *flow.Work
	cuts  []chunk.Piece
	known *cells
	now   []chunk.BlockHash
	read  []bool // of a partial parcel: which blocks were read
	join  []byte // the blocks of the open splice
}

// Run is the stage.
func Run(ctx context.Context, w *flow.Worker, t Tools) error {
	s := newStage(&w.Config.Work, t)
	defer s.known.close()
	return w.Pump(ctx, arena.NoSlot, s.cut)
}

func newStage(work *flow.Work, t Tools) *stage {
	return &stage{Tools: t, cell: work.CellSize, work: work, known: newCells(work)}
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

// parcel finds out what the bytes of p, b, are: the hashes of their blocks, and the
// pieces of its cells.
func (s *stage) parcel(p *flow.Parcel, b []byte) error {
	bad := func(format string, args ...any) error {
		return &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "cut", Object: p.String(), Cause: fmt.Sprintf(format, args...), Remedy: "report this"}
	}
	if p.Offset%s.cell != 0 || int64(len(b)) != p.Length {
		return bad("%d bytes at %d are not whole cells", len(b), p.Offset)
	}
	if int(p.Disk) >= len(s.work.Disks) {
		return bad("the job has no such disk")
	}
	disk := &s.work.Disks[p.Disk]
	s.Blocks.Disk(s.work.Guests[disk.Guest].ID, disk.Info.Disk)
	if err := s.reads(p); err != nil {
		return bad("%v", err)
	}
	s.hash(p, b)
	sum := s.Blocks.Sum(s.now)
	p.Sum, p.Blocks, p.Pieces, p.Runs = sum[:], nil, p.Pieces[:0], nil
	if p.Pass == flow.PassRecheck {
		// Only whether it is what it was: the sum says it, the piece is a formality.
		p.Pieces = append(p.Pieces, flow.Piece{Length: uint32(p.Length), Verdict: flow.Unchanged})
		return nil
	}
	same := true
	per := int(s.cell) / s.Blocks.Size()
	for at := int64(0); at < p.Length; at += s.cell {
		first := int(at/s.cell) * per
		c := cell{
			stage: s, parcel: p, at: at, number: (p.Offset + at) / s.cell,
			bytes: b[at:min(at+s.cell, p.Length)], now: s.now[first:min(first+per, len(s.now))],
		}
		if p.Partial {
			c.read = s.read[first:min(first+per, len(s.now))]
		}
		same = c.find(s.known) && same
	}
	if same {
		p.Blocks = nil
	}
	return nil
}

// reads notes which blocks of a partial parcel were read.
func (s *stage) reads(p *flow.Parcel) error {
	if !p.Partial {
		return nil
	}
	size := int64(s.Blocks.Size())
	blocks := int((p.Length + size - 1) / size)
	s.read = slices.Grow(s.read[:0], blocks)[:blocks]
	clear(s.read)
	for _, r := range p.Runs { // sorted, apart, and inside the parcel
		end := r.Offset - p.Offset + r.Length
		if (r.Offset-p.Offset)%size != 0 || end%size != 0 && end != p.Length {
			return fmt.Errorf("it is partial, and its run of %d bytes at %d is not of whole blocks", r.Length, r.Offset)
		}
		for n := (r.Offset - p.Offset) / size; n*size < end; n++ {
			s.read[n] = true
		}
	}
	return nil
}

// hash hashes the blocks of p, whose bytes are b. Those that no run touches are zeros,
// whatever is in the slot: looking at them costs more than all else where a disk is
// mostly holes, and reader clears only cells that have data, too. A parcel without runs is looked at whole.
func (s *stage) hash(p *flow.Parcel, b []byte) {
	s.now = s.now[:0]
	if len(p.Runs) == 0 {
		s.now = s.Blocks.Hash(p.Offset, b, s.now)
		return
	}
	size := int64(s.Blocks.Size())
	blocks := int((p.Length + size - 1) / size)
	for _, r := range p.Runs { // sorted, apart, and inside the parcel
		first := max(int((r.Offset-p.Offset)/size), len(s.now)) // two runs may share a block
		end := int((r.Offset - p.Offset + r.Length + size - 1) / size)
		if end <= first {
			continue
		}
		s.now = s.Blocks.Holes(first-len(s.now), s.now)
		from := int64(first) * size
		s.now = s.Blocks.Hash(p.Offset+from, b[from:min(int64(end)*size, p.Length)], s.now)
	}
	s.now = s.Blocks.Holes(blocks-len(s.now), s.now)
}
