// Package vhdxcut tries power cuts on VHDX files that are being written to: random
// writes, zeros, trims and flushes by vdisk/vhdx/inplace on a file that keeps what
// was not synced apart (vdisk/crashfile), and at every effect of it a crash, with
// what was not synced lost, kept, or torn and out of order.
//
// After each crash the file must be a valid image by vdisk/vhdx and by the strict
// reader, and hold every sector that was flushed; a sector written since may be
// old, new or torn, and nothing else. Of some crashes the log is replayed for good,
// with power cuts during that too; of some qemu-img is asked.
package vhdxcut

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/inplace"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

// Campaign is the campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "vhdx", Count: 120,
		About: "A VHDX file is written to at random: data, zeros, trims, flushes, closed and opened again; dynamic and differencing, sectors of 512 and 4096, " +
			"one chunk of the table and several. At every write, change of length and sync the power is cut in four ways. A trial has passed if after each cut the " +
			"file is valid for two readers (and, of a sample, for qemu-img) and holds every flushed sector. States are cuts.",
		Open: func(_ context.Context, e trial.Env) (trial.Bench, error) { return Bench{Dir: e.Dir}, nil },
	}
}

// Bench does the trials. Dir is for files that qemu-img is to look at; empty: it is
// not asked. Lie plants a fault: which syncs of the image do nothing.
type Bench struct {
	Dir string
	Lie func(sync int) bool
}

// Close does nothing.
func (Bench) Close() error { return nil }

// run is one trial.
type run struct {
	Bench
	rng    *rand.Rand
	f      *crashfile.File
	d      *inplace.Disk
	m      *model
	parent vdisk.Image
	unit   int64 // sector of the disk
	size   int64
	blocks []int64 // that are written to
	block  int64
	tag    uint32
	every  int // look at one effect of so many
	seen   int // effects
	checks int
	asked  bool
	wrong  error
}

// Trial does trial n.
func (b Bench) Trial(ctx context.Context, n int, rng *rand.Rand) (trial.Outcome, error) {
	r := &run{Bench: b, rng: rng, f: crashfile.New(), m: newModel(), block: 1 << 20, unit: 512, every: 1}
	kinds := []string{"dynamic"}
	if n%2 == 1 {
		kinds = []string{"differencing"}
	}
	if n%3 == 1 {
		r.unit = 4096
		kinds = append(kinds, "4096")
	}
	chunk := r.unit << 23
	r.size = 6<<20 + r.unit*3
	r.blocks = []int64{0, 1, 2, 4, 6}
	if n%4 >= 2 {
		r.size = 2*chunk + 3<<20 + r.unit
		last := r.size / r.block
		r.blocks = []int64{0, chunk/r.block - 1, chunk / r.block, 2 * chunk / r.block, last}
		kinds = append(kinds, "chunks")
	}
	steps := 30
	if n%8 == 7 {
		steps, r.every = 600, 16 // the log's ring is gone round
		kinds = append(kinds, "long")
	}
	if err := r.make(ctx, n%2 == 1); err != nil {
		return trial.Outcome{Kinds: kinds}, err
	}
	err := r.work(ctx, steps)
	return trial.Outcome{Kinds: kinds, Note: fmt.Sprintf("%d effects", r.seen), Checks: r.checks}, errors.Join(err, r.wrong)
}

// make creates the image, durably.
func (r *run) make(ctx context.Context, child bool) error {
	base := vdisktest.NewSparse(r.size)
	for i := range 40 {
		b := r.blocks[r.rng.IntN(len(r.blocks))]
		s := (b*r.block + r.rng.Int64N(r.block)) / r.unit * r.unit
		if s+r.unit > r.size {
			continue
		}
		if _, err := base.WriteAt(pattern(uint32(1_000_000+i), r.unit), s); err != nil {
			return err
		}
		for k := s / sector; k < (s+r.unit)/sector; k++ {
			r.m.base[k] = uint32(1_000_000 + i)
		}
	}
	o := create.Options{BlockSize: r.block, LogicalSector: int(r.unit)}
	if !child {
		if err := create.Disk(ctx, r.f, base, o); err != nil {
			return err
		}
		return r.open(ctx)
	}
	below := vdisktest.NewTape()
	if err := create.Disk(ctx, below, base, o); err != nil {
		return err
	}
	parent, err := vhdx.Open(below.Sparse, nil)
	if err != nil {
		return err
	}
	r.parent = parent
	// The child has a few sectors of its own, so that there are bitmaps.
	l := own{parent, r.blocks[1]*r.block + r.unit*5, r.unit * 9}
	for k := l.at / sector; k < (l.at+l.n)/sector; k++ {
		r.m.base[k] = 2_000_000
	}
	if err := create.Child(ctx, r.f, l, create.Parent{Info: parent.Info(), Relative: `.\base.vhdx`}, o); err != nil {
		return err
	}
	return r.open(ctx)
}

func (r *run) find(vdisk.Parent) (vdisk.Image, error) { return r.parent, nil }

func (r *run) open(ctx context.Context) (err error) {
	r.f.Lie = r.Lie
	r.f.Hook = func() {
		if r.seen++; r.seen%r.every == 0 {
			r.cut(ctx)
		}
	}
	r.d, err = inplace.Open(ctx, r.f, r.f, inplace.Options{Find: r.find})
	return err
}

// work writes at random.
func (r *run) work(ctx context.Context, steps int) error {
	for range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.wrong != nil {
			return nil
		}
		if err := r.step(ctx); err != nil {
			return err
		}
	}
	if err := r.d.Close(); err != nil {
		return err
	}
	r.m.flushed()
	return r.whole(r.f, true, true)
}

func (r *run) step(ctx context.Context) error {
	off, n := r.place()
	switch what := r.rng.IntN(20); {
	case what < 10:
		r.tag++
		r.m.write(off/sector, (off+n)/sector, r.tag, false)
		_, err := r.d.WriteAt(pattern(r.tag, n), off)
		return err
	case what < 13:
		r.m.write(off/sector, (off+n)/sector, 0, false)
		return r.d.Zero(off, n)
	case what < 15:
		r.m.write(off/sector, (off+n)/sector, 0, true)
		return r.d.Trim(off, n)
	case what < 19:
		if err := r.d.Flush(); err != nil {
			return err
		}
		r.m.flushed()
		return nil
	}
	if err := r.d.Close(); err != nil {
		return err
	}
	r.m.flushed()
	return r.open(ctx)
}

// place is where to write: inside a block, across a border, or a whole block.
func (r *run) place() (off, n int64) {
	b := r.blocks[r.rng.IntN(len(r.blocks))] * r.block
	off, n = b+r.rng.Int64N(r.block)/r.unit*r.unit, (r.rng.Int64N(20)+1)*r.unit
	switch r.rng.IntN(4) {
	case 0:
		off = b - r.unit*2
	case 1:
		off, n = b, r.block
	}
	off = max(0, min(off, r.size-r.unit))
	return off, min(n, r.size-off)
}

// cut cuts the power now, in four ways.
func (r *run) cut(ctx context.Context) {
	for i, mode := range []crashfile.Mode{crashfile.Lost, crashfile.Kept, crashfile.Random, crashfile.Random} {
		if r.wrong != nil {
			return
		}
		seed := uint64(r.seen)<<8 | uint64(i)
		c := r.f.Crash(mode, seed)
		if err := r.judge(ctx, c, (r.seen+i)%4 == 0); err != nil {
			r.wrong = fmt.Errorf("after effect %d, %s, seed %d: %w", r.seen, mode, seed, err)
		}
	}
}

// judge looks at what a cut left.
func (r *run) judge(ctx context.Context, c *crashfile.File, deep bool) error {
	r.checks++
	if err := r.whole(c, deep, false); err != nil {
		return err
	}
	if !deep {
		return nil
	}
	if err := r.ask(ctx, c); err != nil {
		return err
	}
	// The log is replayed for good, with power cuts during that.
	var nested error
	c.Hook = func() {
		if nested != nil || r.seen%8 != 0 {
			return
		}
		for _, mode := range []crashfile.Mode{crashfile.Lost, crashfile.Random} {
			r.checks++
			if err := r.whole(c.Crash(mode, uint64(r.seen)), false, false); err != nil {
				nested = fmt.Errorf("cut again after %d effects, %s: %w", c.Effects(), mode, err)
			}
		}
	}
	d, err := inplace.Open(ctx, c, c, inplace.Options{Find: r.find})
	if err != nil {
		return fmt.Errorf("open for writing: %w", err)
	}
	if err := errors.Join(r.compare(d, false), d.Close(), nested); err != nil {
		return fmt.Errorf("replayed: %w", err)
	}
	return r.whole(c, false, false)
}

// whole checks that a file is a valid image with the right content.
func (r *run) whole(c *crashfile.File, slow, final bool) error {
	m, err := vhdx.Open(c, r.find)
	if err != nil {
		return err
	}
	if err := r.compare(m, final); err != nil {
		return err
	}
	s, err := strict.Open(c, c.Size(), r.parent)
	if err != nil {
		return fmt.Errorf("strict reader: %w", err)
	}
	if final && (s.Dirty || !s.Whole) {
		return errors.New("closed, and the log is not empty or the file not of whole MiB")
	}
	if !slow {
		return nil
	}
	for _, b := range r.blocks[:2] {
		got, err := s.Read(b*r.block, min(r.block, r.size-b*r.block))
		if err != nil {
			return fmt.Errorf("strict reader: %w", err)
		}
		if err := r.m.check(b*r.block/sector, got, final); err != nil {
			return fmt.Errorf("strict reader: %w", err)
		}
	}
	return nil
}

// compare reads the blocks that are written to, and their neighbours.
func (r *run) compare(d io.ReaderAt, final bool) error {
	buf := make([]byte, r.block+sector*8)
	for _, b := range r.blocks {
		off := max(0, b*r.block-8*sector)
		p := buf[:min(int64(len(buf)), r.size-off)]
		if n, err := d.ReadAt(p, off); n < len(p) {
			return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
		}
		if err := r.m.check(off/sector, p, final); err != nil {
			return err
		}
	}
	return nil
}

// ask lets qemu-img look at one cut of a trial, in a mode that it can read.
func (r *run) ask(ctx context.Context, c *crashfile.File) error {
	if r.asked || r.Dir == "" || r.parent != nil || r.unit != 512 || r.seen < 40 {
		return nil
	}
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		return nil
	}
	r.asked = true
	path := filepath.Join(r.Dir, "cut.vhdx")
	if err := os.WriteFile(path, c.Bytes(), 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{{"check", "-q", "-r", "all", "-f", "vhdx", path}, {"check", "-q", "-f", "vhdx", path}} {
		if out, err := exec.CommandContext(ctx, qemu, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("qemu-img %v: %w: %s", slices.Delete(args, len(args)-1, len(args)), err, out)
		}
	}
	return os.Remove(path)
}
