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
	"sync"

	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/inplace"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

// Campaign is the campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "vhdx", Count: 128,
		About: "A VHDX file is written to at random: data, zeros, trims, flushes, closed and opened again; dynamic, fixed and differencing, on parents of the " +
			"same and of another size; sectors of 512 and 4096; blocks of 1, 2, 32 and 256 MiB; one chunk of the table and several; absent blocks that keep their " +
			"place; several entries of the log a flush; one caller, and four who write and flush at once. At every write, change of length and sync the power is cut in four ways. A trial has passed if after each cut the " +
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
	plan
	tag    uint32
	seen   int // effects
	checks int
	asked  bool
	wrong  error
}

// Trial does trial n.
func (b Bench) Trial(ctx context.Context, n int, rng *rand.Rand) (trial.Outcome, error) {
	r := &run{Bench: b, rng: rng, f: crashfile.New(), m: newModel(), plan: planOf(n)}
	out := trial.Outcome{Kinds: r.kinds}
	if err := r.make(ctx); err != nil {
		return out, err
	}
	err := r.work(ctx)
	out.Note, out.Checks = fmt.Sprintf("%d effects", r.seen), r.checks
	return out, errors.Join(err, r.wrong)
}

// make creates the image, durably.
func (r *run) make(ctx context.Context) error {
	o := create.Options{BlockSize: r.block, LogicalSector: int(r.unit), Fixed: r.fixed}
	base, err := r.base()
	if err != nil {
		return err
	}
	if !r.child {
		if err := create.Disk(ctx, r.f, base, o); err != nil {
			return err
		}
		return r.start(ctx)
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
	l := own{parent, r.size, r.blocks[1]*r.block + r.unit*5, r.unit * 9}
	for k := l.at / sector; k < (l.at+l.n)/sector; k++ {
		r.m.base[k] = 2_000_000
	}
	if err := create.Child(ctx, r.f, l, create.Parent{Info: parent.Info(), Relative: `.\base.vhdx`}, o); err != nil {
		return err
	}
	return r.start(ctx)
}

// base is the disk as it is at first, or its parent.
func (r *run) base() (*vdisktest.Sparse, error) {
	base := vdisktest.NewSparse(r.below)
	for i := range 40 {
		b := r.blocks[r.rng.IntN(len(r.blocks))]
		s := (b*r.block + r.rng.Int64N(r.span)) / r.unit * r.unit
		if s+r.unit > min(r.size, r.below) {
			continue
		}
		if _, err := base.WriteAt(pattern(uint32(1_000_000+i), r.unit), s); err != nil {
			return nil, err
		}
		for k := s / sector; k < (s+r.unit)/sector; k++ {
			r.m.base[k] = uint32(1_000_000 + i)
		}
	}
	return base, nil
}

// start lets some blocks be absent that keep their place, and opens the image.
func (r *run) start(ctx context.Context) error {
	if !r.places {
		return r.open(ctx)
	}
	g := layout.NewGeometry(layout.Metadata{DiskSize: r.size, BlockSize: r.block, LogicalSector: int(r.unit), HasParent: r.child})
	for i, state := range []uint64{layout.Unmapped, layout.Undefined} {
		b := r.blocks[1+i]
		e, at := make([]byte, layout.EntrySize), 3*layout.MiB+g.Index(b)*layout.EntrySize
		if _, err := r.f.ReadAt(e, at); err != nil {
			return err
		}
		e[0] = e[0]&^layout.StateMask | byte(state)
		if _, err := r.f.WriteAt(e, at); err != nil {
			return err
		}
		for k := range r.m.base { // they read as zeros, and never as the parent's
			if k*sector/r.block == b {
				delete(r.m.base, k)
			}
		}
	}
	if err := r.f.Sync(); err != nil {
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
func (r *run) work(ctx context.Context) error {
	for range r.steps {
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
	switch {
	case r.wide && r.rng.IntN(3) == 0:
		return r.everywhere()
	case r.together && r.rng.IntN(2) == 0:
		return r.atOnce()
	}
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

// everywhere writes to every block, or drops it, so that what the next flush changes
// of the table does not go into one entry of the log.
func (r *run) everywhere() error {
	drop := r.rng.IntN(3) == 0
	for _, b := range r.blocks {
		if drop {
			first := b * r.block / sector // what is behind the span is zeros in any case
			r.m.write(first, first+r.span/sector, 0, false)
			if err := r.d.Zero(b*r.block, min(r.block, r.size-b*r.block)); err != nil {
				return err
			}
			continue
		}
		r.tag++
		off := b*r.block + r.rng.Int64N(r.span/r.unit)*r.unit
		r.m.write(off/sector, (off+r.unit)/sector, r.tag, false)
		if _, err := r.d.WriteAt(pattern(r.tag, r.unit), off); err != nil {
			return err
		}
	}
	return nil
}

// atOnce lets four callers write, zero and trim at once, in one block or in several,
// and a fifth one flush.
func (r *run) atOnce() error {
	var all sync.WaitGroup
	var errs [5]error
	r.m.mark() // what was written before is flushed
	one, quarter := r.rng.IntN(len(r.blocks)), r.span/4/r.unit*r.unit
	apart := r.rng.IntN(2) == 0
	var calls []func() error
	for i := range int64(4) {
		b := r.blocks[one]
		if apart {
			b = r.blocks[(one+int(i))%len(r.blocks)]
		}
		off := b*r.block + i*quarter
		n := min((r.rng.Int64N(40)+1)*r.unit, quarter, max(0, r.size-off)/r.unit*r.unit)
		if n <= 0 {
			continue
		}
		what, tag := r.rng.IntN(6), r.tag+1+uint32(i)
		if what > 0 {
			r.m.write(off/sector, (off+n)/sector, tag*uint32(min(what-1, 1)), false)
		}
		calls = append(calls, func() error {
			switch what {
			case 0:
				_, err := r.d.ReadAt(make([]byte, n), off)
				return err
			case 1:
				return r.d.Zero(off, n)
			}
			_, err := r.d.WriteAt(pattern(tag, n), off)
			return err
		})
	}
	r.tag += 4
	calls = append(calls, r.d.Flush)
	for i, call := range calls {
		all.Go(func() { errs[i] = call() })
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	r.m.flushedMark()
	return nil
}

// place is where to write: inside a block, across a border, or a whole block.
func (r *run) place() (off, n int64) {
	b := r.blocks[r.rng.IntN(len(r.blocks))] * r.block
	off, n = b+r.rng.Int64N(r.span)/r.unit*r.unit, (r.rng.Int64N(20)+1)*r.unit
	switch r.rng.IntN(4) {
	case 0:
		off = b - r.unit*2
	case 1:
		if r.span == r.block {
			off, n = b, r.block
		}
	}
	off = max(0, min(off, r.size-r.unit))
	if at := off % r.block; off >= b && at < r.span {
		n = min(n, r.span-at) // what is looked at
	}
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
		got, err := s.Read(b*r.block, min(r.span, r.size-b*r.block))
		if err != nil {
			return fmt.Errorf("strict reader: %w", err)
		}
		if err := r.m.check(b*r.block/sector, got, final); err != nil {
			return fmt.Errorf("strict reader: %w", err)
		}
	}
	return nil
}

// compare reads what is written to of the blocks, and the ends of their neighbours.
func (r *run) compare(d io.ReaderAt, final bool) error {
	buf := make([]byte, r.span+sector*16)
	for _, b := range r.blocks {
		off := max(0, b*r.block-16*sector)
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
	const most = 64 << 20 // bytes of the file
	if r.asked || r.Dir == "" || r.parent != nil || r.unit != 512 || r.seen < 40 || c.Size() > most {
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
