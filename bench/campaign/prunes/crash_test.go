package prunes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/store/crashfs"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// story makes points, forgets some and prunes, on a disk that notes every effect.
// It notes what was acknowledged: points, and what was forgotten.
func story(w *world, d *crashfs.Disk) error {
	var err error
	if w.ledger, err = w.open(); err != nil {
		return err
	}
	if _, err := w.ledger.Append(w.ctx, id.Job{}, []events.Fact{events.VaultCreated{Vault: w.vault.ID}}, nil, nil); err != nil {
		return err
	}
	for round := range 3 {
		for range 5 {
			w.jobs = nil
			if err := w.startJob(); err != nil {
				return err
			}
			for _, j := range w.jobs {
				for j.dies = 0; !j.over; {
					if err := j.step(); err != nil {
						return err
					}
				}
				d.Note("+" + id.NewPoint(j.id, j.gid).String())
			}
		}
		s, err := w.state(w.ledger)
		if err != nil {
			return err
		}
		for n, p := range s.Listed() {
			if n%3 == 2 && round < 2 {
				continue
			}
			d.Note("-" + p.Point.String()) // from here on it may be gone
			if _, err := w.ledger.Append(w.ctx, id.Job{}, []events.Fact{events.PointForgotten{Point: p.Point, Guest: p.Guest}}, nil, nil); err != nil {
				return err
			}
		}
		p, err := w.begin()
		for p.work.Margin = 0; err == nil && !p.over; {
			err = p.step()
		}
		if err != nil {
			return err
		}
		if _, err := w.ledger.Checkpoint(w.ctx); err != nil {
			return err
		}
	}
	return nil
}

// recovered looks at a vault after a power cut: what was acknowledged is listed, what
// is listed is whole, before and after the next prunes, which need no help.
func (b *Bench) recovered(ctx context.Context, w *world, d *crashfs.Disk, told []crashfs.Effect) error {
	st, err := dir.OpenOn(d, "/vault")
	if err != nil {
		return err
	}
	after := b.world(ctx, st, rand.New(rand.NewPCG(7, 7)), "after")
	after.truth = w.truth
	after.real = w.real
	if after.ledger, err = after.open(); err != nil {
		return err
	}
	check := func(when string) error {
		s, err := after.state(after.ledger)
		if err != nil {
			return err
		}
		listed := map[string]bool{}
		for _, e := range told {
			if e.Op == crashfs.OpNote {
				listed[string(e.Data[1:])] = e.Data[0] == '+'
			}
		}
		for _, p := range s.Listed() {
			delete(listed, p.Point.String())
			if err := after.whole(p); err != nil {
				return fmt.Errorf("%s: point %s: %w", when, id.Short(p.Point), err)
			}
		}
		for name, is := range listed {
			if is {
				return fmt.Errorf("%s: point %s was acknowledged and is not listed", when, name)
			}
		}
		return nil
	}
	if err := check("after the cut"); err != nil {
		return err
	}
	if err := after.fenceAll(id.Job{}); err != nil {
		return err
	}
	for range 2 {
		p, err := after.begin()
		p.full, p.work.Margin = true, 0
		for err == nil && !p.over {
			err = p.step()
		}
		if err != nil {
			return fmt.Errorf("the next prune: %w", err)
		}
	}
	return check("after the next prune")
}

// cut runs the story and cuts the power at every so many effects of it; drop
// plants effects that do not happen.
func cut(t *testing.T, every, seeds int, drop func(crashfs.Effect) bool) (states int, err error) {
	t.Helper()
	b, err := Open(t.TempDir(), nothing)
	if err != nil {
		t.Fatal(err)
	}
	d := crashfs.New("/vault")
	st, err := dir.CreateOn(d, "/vault")
	if err != nil {
		t.Fatal(err)
	}
	w := b.world(t.Context(), st, rand.New(rand.NewPCG(1, 2)), "rows")
	if err := story(w, d); err != nil {
		t.Fatal(err)
	}
	if !w.kinds["packs"] || !w.kinds["deleted"] || !w.kinds["layers"] {
		t.Fatalf("the story lacks something: %v", w.kinds)
	}
	log := d.Log()
	stop := errors.New("found")
	var found error
	err = crashfs.Every(crashfs.New("/vault"), log, crashfs.Seeds(seeds), drop, func(c crashfs.Case, after *crashfs.Disk) error {
		if c.Effects%every != 0 || c.Effects < 20 { // before that there is no vault
			return nil
		}
		states++
		if err := b.recovered(t.Context(), w, after, log[:c.Effects]); err != nil {
			found = fmt.Errorf("%s, after %s: %w", c, log[c.Effects-1], err)
			return stop
		}
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		t.Fatal(err)
	}
	t.Logf("%d effects, %d states, %v", len(log), states, w.kinds)
	return states, found
}

// Wherever the power goes during backup, forget and prune, and whatever of the
// unsynced is left: every point that was acknowledged is listed and whole, and the
// next prune goes on by itself.
func TestPowerCuts(t *testing.T) {
	states, err := cut(t, *every, *seeds, nil)
	if err != nil {
		t.Error(err)
	}
	if states < 20 {
		t.Errorf("%d states", states)
	}
}

// A folder sync that does not happen is found.
func TestDroppedSyncIsFound(t *testing.T) {
	_, err := cut(t, 1, 0, func(e crashfs.Effect) bool { return e.Op == crashfs.OpSyncDir })
	if err == nil {
		t.Error("not found")
	}
	t.Log(err)
}
