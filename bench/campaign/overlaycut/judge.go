package overlaycut

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/millrace-backup/millrace/blockdev/overlay"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
)

// disks are the files of an overlay: data, and the two journals.
type disks [3]*crashfile.File

func newDisks() disks {
	d := disks{crashfile.New(), crashfile.New(), crashfile.New()}
	crashfile.Together(d[:]...)
	return d
}

func (d disks) crash(m crashfile.Mode, seed uint64) (left disks) {
	for n, f := range d {
		left[n] = f.Crash(m, seed+uint64(n))
	}
	crashfile.Together(left[:]...)
	return left
}

func (d disks) hook(f func()) {
	for _, x := range d {
		x.Hook = f
	}
}

func (r *run) options(data, a, b vdisk.File) overlay.Options {
	return overlay.Options{Size: r.size, Over: "campaign", Seam: &overlay.Seam{Data: data, Journals: [2]vdisk.File{a, b}, Dead: r.dead}}
}

func (r *run) open(d disks) (*overlay.Overlay, error) {
	return overlay.Open("", r.options(d[0], d[1], d[2]))
}

// cut lets the power go now, or kills the process, and looks at what is left. It is called
// while nothing happens to the files.
func (r *run) cut() {
	modes := []crashfile.Mode{crashfile.Lost, crashfile.Random, crashfile.Random, crashfile.Random, crashfile.Killed}
	m := modes[r.dice.IntN(len(modes))]
	seed := r.dice.Uint64()
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if err := r.judge(r.d.crash(m, seed), m == crashfile.Killed && !r.lost, 2, r.dice); err != nil {
		r.wrong = fmt.Errorf("after effect %d, %s, seed %d: %w", r.seen, m, seed, err)
	}
}

// judge opens what is left of an overlay and checks it. deep times over, there are cuts and kills
// while it is opened.
func (r *run) judge(d disks, all bool, deep int, rng *rand.Rand) error {
	r.checks++
	var left []disks
	var whole []bool
	if deep > 0 {
		d.hook(func() {
			if len(left) < 2 && rng.IntN(5) == 0 {
				m := []crashfile.Mode{crashfile.Random, crashfile.Killed}[rng.IntN(2)]
				left = append(left, d.crash(m, rng.Uint64()))
				whole = append(whole, all && m == crashfile.Killed)
			}
		})
	}
	o, err := r.open(d)
	d.hook(nil)
	if err != nil {
		return err
	}
	found, err := r.look(o, all)
	if err != nil {
		return err
	}
	// What was found stays, whatever happens.
	again, err := r.open(d.crash(crashfile.Lost, 0))
	if err != nil {
		return fmt.Errorf("once more: %w", err)
	}
	later, err := r.look(again, false)
	if err != nil {
		return fmt.Errorf("once more: %w", err)
	}
	for s, tag := range found {
		if later[s] != tag {
			return fmt.Errorf("sector %d is of write %d, and after the next cut of %d", s, tag, later[s])
		}
	}
	for n, x := range left {
		if err := r.judge(x, whole[n], deep-1, rng); err != nil {
			return fmt.Errorf("again while it was opened: %w", err)
		}
	}
	return errors.Join(o.Close(), again.Close())
}

// look reads what is written to, and says which write each sector is of.
func (r *run) look(o *overlay.Overlay, all bool) (map[int64]uint64, error) {
	found := make(map[int64]uint64, int64(len(r.windows))*r.span/sector)
	buf := make([]byte, r.span)
	for _, w := range r.windows {
		p := buf[:min(r.span, r.size-w)]
		if err := o.ReadAt(p, w, under{}); err != nil {
			return nil, err
		}
		for i := int64(0); i < int64(len(p)); i += sector {
			tag, err := r.m.check((w+i)/sector, p[i:i+sector], all)
			if err != nil {
				return nil, err
			}
			found[(w+i)/sector] = tag
		}
		at := w
		for e, err := range o.Written(context.Background(), w, w+int64(len(p))) {
			if err != nil {
				return nil, err
			}
			if e.Offset != at || e.Length <= 0 {
				return nil, fmt.Errorf("extent %+v where one at %d was due", e, at)
			}
			for ; at < e.End(); at += sector {
				if !agrees(e.Kind, found[at/sector]) {
					return nil, fmt.Errorf("sector %d is of write %d and is said to be %v", at/sector, found[at/sector], e.Kind)
				}
			}
		}
		if at != w+int64(len(p)) {
			return nil, fmt.Errorf("extents end at %d", at)
		}
	}
	return found, nil
}
