package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/chunk"
	"golang.org/x/sync/errgroup"
)

// How much of what a tracker calls unchanged is read and compared all the same: one part
// in samplePart of what is known, and no less than minSample bytes.
const (
	samplePart   = 1000
	minSample    = 16 << 20
	sampleBlocks = 16 // that lie together and are read at once
	sampleAtOnce = 8
)

// window is a few blocks of a cell that are looked at.
type window struct {
	at    int64  // byte on the disk
	cell  int64  // its number
	first int    // block in the cell
	dirty uint64 // of its blocks those that are reported as changed: a bit each, the first the lowest
}

// sample compares some of what is reported as unchanged with the hashes of the parent's
// blocks. It returns where the first block that has changed begins, -1 if none was found.
// Without hashes, or without the key to them, nothing can be compared.
func (s *stage) sample(ctx context.Context, h *hold, t *tracked, f *sidecar.File, p *plan, seed uint64) (bad int64, err error) {
	if f == nil || s.blocks == nil {
		return -1, nil
	}
	windows, err := t.windows(f, rand.New(rand.NewPCG(seed, ^uint64(p.fact.Number))))
	if err != nil || len(windows) == 0 {
		return -1, err
	}
	if err := t.markDirty(ctx, windows); err != nil {
		return -1, err
	}
	windows = slices.DeleteFunc(windows, func(w window) bool { return w.dirty == 1<<sampleBlocks-1 })
	im, err := h.driver.Open(ctx, p.disk)
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	d := &s.w.Config.Work.Disks[p.fact.Number]
	s.blocks.Disk(s.w.Config.Work.Guests[d.Guest].ID, d.Info.Disk)
	c := comparison{blocks: s.blocks, file: f, rec: sidecar.Shape{Size: t.size, Cell: t.cell, Block: t.block}.NewRecord(), bad: -1}
	g, reading := errgroup.WithContext(ctx)
	g.SetLimit(sampleAtOnce)
	for _, w := range windows {
		g.Go(func() error {
			b := make([]byte, min(sampleBlocks*t.block, t.size-w.at))
			if reading.Err() != nil {
				return reading.Err()
			}
			if _, err := im.ReadAt(b, w.at); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("compare some of what is unchanged: %w", err)
			}
			c.compare(w, b)
			return nil
		})
	}
	err = g.Wait()
	p.fact.SampledBytes = c.bytes
	return c.bad, err
}

// windows chooses what is looked at, in order, among the cells of which there is a record.
func (t *tracked) windows(f *sidecar.File, rng *rand.Rand) (out []window, err error) {
	cells, err := f.Known()
	if err != nil || len(cells) == 0 {
		return nil, err
	}
	length := sampleBlocks * t.block
	each := t.cell / length
	if each == 0 {
		return nil, nil
	}
	want := max(minSample, int64(len(cells))*t.cell/samplePart) / length
	chosen := map[int64]bool{}
	for range min(want, int64(len(cells))*each) { // one that is chosen twice is looked at once
		n := rng.Int64N(int64(len(cells)) * each)
		cell := cells[n/each]
		if at := cell*t.cell + n%each*length; !chosen[n] && at < t.size {
			chosen[n] = true
			out = append(out, window{at: at, cell: cell, first: int(n % each * sampleBlocks)})
		}
	}
	slices.SortFunc(out, func(a, b window) int { return int((a.at - b.at) / length) })
	return out, nil
}

// markDirty notes which blocks of the windows are reported as changed.
func (t *tracked) markDirty(ctx context.Context, windows []window) error {
	length, n := sampleBlocks*t.block, 0
	for e, err := range t.reported(ctx) {
		if err != nil {
			return err
		}
		for n < len(windows) && windows[n].at+length <= e.Offset {
			n++
		}
		for k := n; k < len(windows) && windows[k].at < e.End(); k++ {
			w := &windows[k]
			for i := range int64(sampleBlocks) {
				if at := w.at + i*t.block; at < e.End() && at+t.block > e.Offset {
					w.dirty |= 1 << i
				}
			}
		}
		if n == len(windows) {
			break
		}
	}
	return nil
}

// comparison gathers what comes of the sample.
type comparison struct {
	mu     sync.Mutex
	blocks *chunk.Blocks
	file   *sidecar.File
	rec    *sidecar.Record
	now    []chunk.BlockHash
	bytes  int64
	bad    int64 // -1: none
}

func (c *comparison) compare(w window, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.file.Cell(w.cell, c.rec) {
		return
	}
	c.now = c.blocks.Hash(w.at, b, c.now[:0])
	c.bytes += int64(len(b))
	for i, hash := range c.now {
		at := w.at + int64(i*c.blocks.Size())
		if w.dirty&(1<<i) == 0 && hash != c.rec.Hashes[w.first+i] && (c.bad < 0 || at < c.bad) {
			c.bad = at
		}
	}
}
