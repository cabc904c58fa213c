package delta

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
)

// Index knows where chunks lie that are durable: those from before the job, and
// those that it and other jobs have told of since.
type Index interface {
	Find(c id.Chunk) (chunkindex.Place, bool)
	TakeUp(all bool) error // looks for what has come since
}

// Map is a disk of the parent point.
type Map interface {
	Range(ctx context.Context, from, to int64) iter.Seq2[table.MapPiece, error]
	Size() int64
}

// OpenMap opens the map of a disk that has a parent point. Maps are opened again and
// again in a job of many disks; what they keep of their tables they share.
type OpenMap func(ctx context.Context, d flow.WorkDisk) (Map, error)

// maxMaps bounds the open maps: of each there is an index in memory, and the disks
// of a job come one after the other but for some at the end.
const maxMaps = 8

// opened is the map of a disk.
type opened struct {
	disk uint32
	m    Map // nil: the disk has no parent
}

type stage struct {
	w      *flow.Worker
	index  Index
	recent *arena.Recent
	open   OpenMap
	maps   []opened // the most recently used first
	old    []table.MapPiece
	// distrusted packs may not be referred to: what only they have is new
	distrusted map[flow.PackID]bool
	// withdrawn are chunks that may not be referred to where the parent has them
	withdrawn map[flow.Place]bool
	parts     map[id.Chunk]flow.Verdict // of the parcel's splices
}

// Run is the stage.
func Run(ctx context.Context, w *flow.Worker, index Index, open OpenMap) error {
	s := &stage{w: w, index: index, recent: w.Arena.Recent(), open: open, distrusted: w.Config.Work.DistrustedPacks(), withdrawn: map[flow.Place]bool{}, parts: map[id.Chunk]flow.Verdict{}}
	for _, p := range w.Config.Work.Withdrawn {
		s.withdrawn[p] = true
	}
	return w.Pump(ctx, arena.NoSlot, s.decide)
}

func (s *stage) decide(ctx context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
	p := d.Parcel
	if p.Pass == flow.PassRecheck {
		p.Claim = arena.Claim{}
		return flow.Indexer, p, nil
	}
	if err := s.checkDisk(p); err != nil {
		return "", nil, err
	}
	if err := s.index.TakeUp(false); err != nil {
		return "", nil, err
	}
	// Also where the chunker has found all to be unchanged by the hashes of its
	// blocks: a point that builds on a table which cannot be read would be listed as
	// done and not restore.
	if err := s.load(ctx, p); err != nil {
		return "", nil, err
	}
	if s.judge(p) {
		return flow.Seal, p, nil
	}
	p.Claim = arena.Claim{} // nothing in the slot is needed any more
	return flow.Indexer, p, nil
}

// judge gives every piece its verdict and reports whether any is to be stored.
// What the parent has there has been loaded. The parts of a chunk get one verdict,
// though the chunk may become known while we look.
func (s *stage) judge(p *flow.Parcel) (store bool) {
	at := 0
	clear(s.parts)
	for i := range p.Pieces {
		x := &p.Pieces[i]
		if x.Verdict == flow.Unchanged {
			continue
		}
		v, seen := s.parts[x.Chunk]
		if !seen || x.Raw == 0 {
			v = s.verdict(x, p, &at)
		}
		if x.Verdict = v; x.Raw != 0 {
			s.parts[x.Chunk] = v
		}
		store = store || v == flow.New && !x.Zero
	}
	return store
}

func (s *stage) checkDisk(p *flow.Parcel) error {
	if int(p.Disk) < len(s.w.Config.Work.Disks) {
		return nil
	}
	return &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "compare", Object: p.String(), Cause: "the job has no such disk", Remedy: "report this"}
}

// mapOf returns the parent's map of the parcel's disk, nil if it has no parent.
func (s *stage) mapOf(ctx context.Context, p *flow.Parcel) (Map, error) {
	o := opened{disk: p.Disk}
	if i := slices.IndexFunc(s.maps, func(x opened) bool { return x.disk == p.Disk }); i >= 0 {
		o = s.maps[i]
		s.maps = slices.Delete(s.maps, i, i+1)
	} else {
		if d := s.w.Config.Work.Disks[p.Disk]; d.Parent != nil {
			var err error
			if o.m, err = s.open(ctx, d); err != nil {
				return nil, flow.ParentFault("open the parent's map", d.Info.Path, d.Guest, err)
			}
		}
	}
	s.maps = slices.Insert(s.maps[:min(len(s.maps), maxMaps-1)], 0, o)
	return o.m, nil
}

// load reads what the parent has in the parcel's range.
func (s *stage) load(ctx context.Context, p *flow.Parcel) error {
	if err := s.checkDisk(p); err != nil {
		return err
	}
	m, err := s.mapOf(ctx, p)
	if err != nil {
		return err
	}
	s.old = s.old[:0]
	if m == nil {
		return nil
	}
	for x, err := range m.Range(ctx, p.Offset, min(p.Offset+p.Length, m.Size())) {
		if err != nil {
			d := &s.w.Config.Work.Disks[p.Disk]
			return flow.ParentFault("read the parent's map", fmt.Sprintf("%s of %s", p, d.Info.Path), d.Guest, err)
		}
		s.old = append(s.old, x)
	}
	return nil
}

// verdict compares a piece with the old pieces; at moves along with it.
func (s *stage) verdict(x *flow.Piece, p *flow.Parcel, at *int) flow.Verdict {
	from := p.Offset + int64(x.Offset)
	to := from + int64(x.Length)
	for *at < len(s.old) && s.old[*at].Offset+s.old[*at].Length <= from {
		*at++
	}
	var o *table.MapPiece
	if *at < len(s.old) {
		o = &s.old[*at]
	}
	switch {
	case x.Zero && s.w.Config.Work.Disks[p.Disk].Parent == nil:
		return flow.Unchanged // what no layer covers is zero
	case x.Zero:
		if o != nil && o.Zero && o.Offset <= from && o.Offset+o.Length >= to {
			return flow.Unchanged
		}
		return flow.New
	case p.Fresh:
		return flow.New
	case x.Raw == 0 && o != nil && !o.Zero && o.Offset == from && o.Length == int64(x.Length) && o.Chunk == x.Chunk && o.ChunkOffset == 0 &&
		o.Domain == s.w.Config.Work.Domain && s.trusts(flow.PackID(o.Pack), o.Chunk):
		return flow.Unchanged
	case s.recent.Has(x.Chunk) || s.known(x.Chunk):
		return flow.Known
	}
	return flow.New
}

// known reports whether the chunk lies where it may be referred to.
func (s *stage) known(c id.Chunk) bool {
	p, ok := s.index.Find(c)
	return ok && s.trusts(flow.PackID{Job: p.Job, Name: p.Pack}, c)
}

// trusts reports whether a chunk may be referred to in a pack.
func (s *stage) trusts(p flow.PackID, c id.Chunk) bool {
	return !s.distrusted[p] && !s.withdrawn[flow.Place{Pack: p, Chunk: c}]
}
