// Package overlaycut cuts the power of overlays (blockdev/overlay) at any effect: what a guest
// flushed is there, what a killed process acknowledged too, and of the rest each sector is
// old or new.
//
// [Campaign] is the campaign; [Bench.Trial] does one trial. The overlay's three files are on
// a disk in memory (vdisk/crashfile), so nothing of the outside is needed. A *life* of an overlay
// lasts from one opening to the next. Where several callers write at once a repeated trial
// is of the same kind, and not the same.
//
// It does not try the folder in which the files are, nor processes that are really killed: the tests of
// the overlay itself do.
package overlaycut

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/blockdev/overlay"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
)

// Campaign is the campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "overlay", Count: 400,
		About: "An overlay is written to at random, by one caller or by four that write sectors of the same units while others flush and read: data, zeros, trims of nearly all of the disk; " +
			"disks of 400 KiB and of 16 TiB; journals that are written anew all the time; a disk that is full now and then. It lives several lives, which end by closing, a kill or a power cut. " +
			"At one effect of several the power is cut, or the process killed, and again while that is opened, and again. A trial has passed if each time every flushed sector is " +
			"there, after kills every acknowledged one, all others are old or new, and what was found once is found again. States are cuts and kills.",
		Open: func(context.Context, trial.Env) (trial.Bench, error) { return Bench{}, nil },
	}
}

// Bench does the trials. Lie plants a fault: which syncs of the data or, journal, of the
// journals do nothing. Sparse: at so many times fewer effects there are cuts.
type Bench struct {
	Lie    func(journal bool, sync int) bool
	Sparse int
}

// Close does nothing.
func (Bench) Close() error { return nil }

// run is one trial.
type run struct {
	Bench
	rng     *rand.Rand
	dice    *rand.Rand // for what happens in hooks
	kinds   []string
	callers bool
	huge    bool
	full    bool
	dead    int64
	size    int64
	windows []int64 // where it is written to
	span    int64   // so many bytes each
	grain   int64   // sectors side by side that one caller has
	every   int     // effects

	d      disks
	room   *atomic.Int64
	o      *overlay.Overlay
	m      *model
	tag    atomic.Uint64
	made   bool
	seen   int
	checks int
	lost   bool // the power was cut, and what is there was not looked at yet
	wrong  error
}

func plan(n int, rng *rand.Rand) *run {
	r := &run{rng: rng, dice: rand.New(rand.NewPCG(rng.Uint64(), 3)), m: newModel(), room: new(atomic.Int64), span: 24 * 4096}
	kind := func(is bool, name string) bool {
		if is {
			r.kinds = append(r.kinds, name)
		}
		return is
	}
	r.callers = kind(n%2 == 1, "callers")
	r.huge = kind(n/2%4 == 3, "16 TiB")
	r.full = kind(n/2%3 == 1, "full")
	if kind(n/4%2 == 1, "anew") {
		r.dead = 20
	}
	apart := r.span
	if r.huge {
		apart = 4 << 40
	}
	for i := range int64(4) {
		r.windows = append(r.windows, i*apart)
	}
	r.size = 3*apart + r.span - 3*sector
	r.grain = []int64{1, 3, 8, 16}[rng.IntN(4)]
	r.every = 3 + rng.IntN(6)
	if r.callers {
		r.every *= 3
	}
	return r
}

// Trial does trial n.
func (b Bench) Trial(ctx context.Context, n int, rng *rand.Rand) (trial.Outcome, error) {
	r := plan(n, rng)
	r.Bench, r.d = b, newDisks()
	r.every *= max(1, b.Sparse)
	r.tag.Store(beneath)
	err := r.lives(ctx)
	return trial.Outcome{Kinds: r.kinds, Note: fmt.Sprintf("%d effects", r.seen), Checks: r.checks}, errors.Join(r.wrong, err)
}

// watched are options whose files are cut now and then.
func (r *run) watched() overlay.Options {
	for n, f := range r.d {
		f.Hook = func() {
			if r.seen++; r.wrong == nil && r.made && r.seen%r.every == 0 {
				r.cut()
			}
		}
		if r.Lie != nil {
			f.Lie = func(sync int) bool { return r.Lie(n > 0, sync) }
		}
	}
	return r.options(bounded{r.d[0], r.room}, bounded{r.d[1], r.room}, bounded{r.d[2], r.room})
}

const plenty = 1 << 40

func (r *run) lives(ctx context.Context) (err error) {
	r.room.Store(plenty)
	if r.o, err = overlay.Create("", r.watched()); err != nil {
		return err
	}
	r.made = true
	for range 5 {
		live := r.alone
		if r.callers {
			live = r.together
		}
		if err := live(); err != nil || r.wrong != nil || ctx.Err() != nil {
			return err
		}
		switch r.rng.IntN(3) {
		case 0:
			if err := r.o.Close(); err != nil {
				return err
			}
		case 1: // killed: the files go on
		default:
			r.lost = true
			r.d = r.d.crash(crashfile.Random, r.rng.Uint64())
		}
		r.o, err = overlay.Open("", r.watched())
		if r.full && errors.Is(err, syscall.ENOSPC) {
			r.room.Store(plenty)
			r.o, err = overlay.Open("", r.watched())
		}
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		r.m.mu.Lock()
		found, err := r.look(r.o, !r.lost)
		r.m.mu.Unlock()
		if err != nil {
			return fmt.Errorf("opened: %w", err)
		}
		r.m.settle(found)
		r.lost = false
	}
	return r.o.Close()
}

// alone is the life of an overlay with one caller.
func (r *run) alone() error {
	for range 60 {
		if r.wrong != nil {
			return nil
		}
		r.breathe(r.rng)
		w := r.windows[r.rng.IntN(len(r.windows))]
		from := w/sector + r.rng.Int64N(min(r.span, r.size-w)/sector)
		n := 1 + r.rng.Int64N(12*8)
		if r.rng.IntN(2) == 0 {
			from, n = from/8*8, (n+7)/8*8
		}
		if r.rng.IntN(25) == 0 { // nearly all of it
			n = (r.windows[3] + r.rng.Int64N(r.span/sector)) / sector
		}
		if err := r.change(r.rng, from, min(from+n, r.size/sector)); err != nil {
			return err
		}
		if r.rng.IntN(4) == 0 {
			if err := r.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// together is its life with four that write, one that flushes and one that reads.
func (r *run) together() error {
	var all, writing sync.WaitGroup
	var errs [6]error
	var over atomic.Bool
	for c := range int64(4) {
		rng := rand.New(rand.NewPCG(r.rng.Uint64(), uint64(c)))
		writing.Go(func() {
			for n := 0; n < 60 && errs[c] == nil; n++ {
				r.breathe(rng)
				w := r.windows[rng.IntN(len(r.windows))] / sector
				from := w + (rng.Int64N(r.span/sector/r.grain/4)*4+c)*r.grain
				to := min(from+1+rng.Int64N(r.grain), w+r.span/sector, r.size/sector)
				if rng.IntN(3) == 0 {
					to = min(from+r.grain, w+r.span/sector, r.size/sector)
				}
				if from < to {
					errs[c] = r.change(rng, from, to)
				}
			}
		})
	}
	all.Go(func() {
		for !over.Load() && errs[4] == nil {
			errs[4] = r.flush()
		}
	})
	rng := rand.New(rand.NewPCG(r.rng.Uint64(), 9))
	all.Go(func() {
		for !over.Load() && errs[5] == nil {
			errs[5] = r.read(rng)
		}
	})
	writing.Wait()
	over.Store(true)
	all.Wait()
	return errors.Join(errs[:]...)
}

// change writes, zeroes or trims sectors.
func (r *run) change(rng *rand.Rand, from, to int64) error {
	tag, call := uint64(0), r.o.WriteZeroes
	switch what := rng.IntN(8); {
	case to-from > 2*r.span/sector || what == 0:
		call = r.o.Trim
	case what > 1:
		tag = r.tag.Add(1)
		call = func(off, length int64) error {
			p := make([]byte, length)
			pattern(p, off/sector, tag)
			_, err := r.o.WriteAt(p, off)
			return err
		}
	}
	var parts [][2]int64 // of it, that are looked at
	for _, w := range r.windows {
		if a, b := max(from, w/sector), min(to, (w+r.span)/sector); a < b {
			parts = append(parts, [2]int64{a, b})
		}
	}
	for _, p := range parts {
		r.m.begin(p[0], p[1], tag)
	}
	err := call(from*sector, (to-from)*sector)
	if r.full && errors.Is(err, syscall.ENOSPC) {
		return nil // it is there, or not, or in part
	}
	if err == nil {
		for _, p := range parts {
			r.m.acked(p[0], p[1])
		}
	}
	return err
}

// read reads while others write: sectors are whole, and of their place.
func (r *run) read(rng *rand.Rand) error {
	w := r.windows[rng.IntN(len(r.windows))]
	off := w + rng.Int64N(min(r.span, r.size-w)/sector)*sector
	p := make([]byte, min(20*sector, r.size-off))
	if err := r.o.ReadAt(p, off, under{}); err != nil {
		return err
	}
	for i := 0; i < len(p); i += sector {
		s := (off + int64(i)) / sector
		if _, err := tagOf(p[i:i+sector], s); err != nil {
			return fmt.Errorf("read while it is written: sector %d %w", s, err)
		}
	}
	return nil
}

func (r *run) flush() error {
	marks := r.m.mark()
	if err := r.o.Flush(); err != nil {
		return err
	}
	r.m.flushed(marks)
	return nil
}

// breathe fills the disk, and makes room again.
func (r *run) breathe(rng *rand.Rand) {
	if !r.full || rng.IntN(12) != 0 {
		return
	}
	r.room.Store([]int64{0, 100, 5000, 60_000, plenty, plenty}[rng.IntN(6)])
}

// bounded is a file on a disk that may be full: it grows by what room there is.
type bounded struct {
	*crashfile.File
	room *atomic.Int64
}

func (b bounded) WriteAt(p []byte, off int64) (int, error) {
	grow := max(0, off+int64(len(p))-b.Size())
	left := b.room.Add(-grow)
	if left >= 0 || grow == 0 {
		return b.File.WriteAt(p, off)
	}
	b.room.Store(0)
	n, err := 0, error(nil)
	if fits := int64(len(p)) - grow + max(0, left+grow); fits > 0 {
		n, err = b.File.WriteAt(p[:fits], off)
	}
	return n, errors.Join(err, syscall.ENOSPC)
}
