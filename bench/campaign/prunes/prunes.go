// Package prunes lets jobs, readers, forget and prune loose on one vault, step by
// step in an order that a seed decides, with clocks that jump, and looks whether
// anything is deleted that somebody needs.
//
// A job of the model does what a real one does to the ledger, with the packages that
// a real one uses: it claims a guest, finds a parent and what it may refer to, stores
// packs, writes tables over the parent's or a base, looks with catalog/trust whether
// a pack has gone, stores that again, and commits under a guard. It may die at any
// step, be fenced, wake up and go on. prune is the real one, killed at any step too.
// Readers read a point chunk by chunk, pinned, or unpinned within the margin of real
// time.
//
// After each deletion, and at the end, every listed point is read whole; so is
// every point while a reader that the rule protects reads it.
package prunes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/history"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/prune"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Campaign is the campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "prune", Count: 2000,
		About: "Backups of three guests with common content, forget, prune and readers take turns at random, step by step; jobs and prunes die and wake up again, " +
			"each clock jumps by up to ten days. A trial has passed if after each deletion every listed point, and every point that a protected reader reads, is whole. " +
			"States are points read whole.",
		Open: func(_ context.Context, e trial.Env) (trial.Bench, error) { return Open(e.Dir, nothing) },
	}
}

// Plant is a fault of prune, to be found.
type Plant string

// The faults.
const (
	nothing    Plant = ""
	NoGuard    Plant = "retires without looking at what was committed meanwhile"
	NoWait     Plant = "deletes without waiting for jobs and readers"
	NoHold     Plant = "retires what a running job may build upon"
	ClockAlone Plant = "waits for the margin alone, by a clock that jumps"
)

// Bench does the trials, on vaults that have their keys in common.
type Bench struct {
	dir   string
	v     *vault.Vault
	ids   *chunk.IDs
	plant Plant
}

// Open makes the keys.
func Open(dir string, plant Plant) (*Bench, error) {
	v, _, err := vault.Create(context.Background(), history.NewMemory(), []byte("password"), vault.CreateOptions{
		KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		return nil, err
	}
	key, err := v.Keys.IDKey(v.Config.DefaultDomain)
	if err != nil {
		return nil, err
	}
	return &Bench{dir, v, chunk.NewIDs(key), plant}, nil
}

// Close does nothing.
func (*Bench) Close() error { return nil }

const (
	blocks  = 12      // of a disk
	block   = 4 << 10 // bytes, a chunk
	content = 26      // different blocks that there are
	guests  = 3
	steps   = 150
)

// world is one trial.
type world struct {
	*Bench
	rng     *rand.Rand
	ctx     context.Context
	store   store.Store
	vault   *vault.Vault
	ledger  *ledger.Ledger // of whoever only says something
	states  map[*ledger.Ledger]*catalog.State
	real    time.Time
	jobs    []*job
	readers []*reader
	disks   [guests][blocks]uint32      // what each guest has now
	truth   map[id.Point][blocks]uint32 // what each point has to show
	kinds   map[string]bool
	prunes  []*pruning
	scratch string
	checks  int
	deleted int
}

// Trial does trial n.
func (b *Bench) Trial(ctx context.Context, n int, rng *rand.Rand) (trial.Outcome, error) {
	w := b.world(ctx, history.NewMemory(), rng, fmt.Sprintf("rows-%d", n))
	defer os.Remove(w.scratch)
	err := w.run()
	out := trial.Outcome{Checks: w.checks, Note: fmt.Sprintf("%d objects deleted", w.deleted)}
	for k := range w.kinds {
		out.Kinds = append(out.Kinds, k)
	}
	slices.Sort(out.Kinds)
	return out, err
}

// world is a vault that has only its keys, at a place.
func (b *Bench) world(ctx context.Context, st store.Store, rng *rand.Rand, scratch string) *world {
	w := &world{Bench: b, rng: rng, ctx: ctx, store: st, real: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		truth: map[id.Point][blocks]uint32{}, kinds: map[string]bool{}, states: map[*ledger.Ledger]*catalog.State{}, scratch: filepath.Join(b.dir, scratch)}
	w.vault = &vault.Vault{ID: b.v.ID, Config: b.v.Config, Store: st, Keys: b.v.Keys}
	return w
}

func (w *world) run() (err error) {
	if w.ledger, err = w.open(); err != nil {
		return err
	}
	if _, err := w.ledger.Append(w.ctx, id.Job{}, []events.Fact{events.VaultCreated{Vault: w.vault.ID}}, nil, nil); err != nil {
		return err
	}
	for range steps {
		w.real = w.real.Add(time.Duration(w.rng.Int64N(int64(20 * time.Hour))))
		if err := w.step(); err != nil {
			return err
		}
	}
	// All come to their end; whoever died is fenced, and prune has the last word.
	for _, j := range w.jobs {
		for !j.over {
			if err := j.step(); err != nil {
				return err
			}
		}
	}
	if err := w.fenceAll(id.Job{}); err != nil {
		return err
	}
	for range 3 {
		w.real = w.real.Add(30 * 24 * time.Hour)
		p, err := w.begin()
		for err == nil && !p.over {
			err = p.step()
		}
		if err != nil {
			return err
		}
	}
	return w.look("at the end")
}

// open opens the ledger as another process would, with a clock of its own.
func (w *world) open() (*ledger.Ledger, error) {
	wrong := time.Duration(w.rng.Int64N(int64(20*24*time.Hour))) - 10*24*time.Hour
	if w.rng.IntN(3) > 0 {
		wrong = 0
	}
	return ledger.Open(w.ctx, w.vault, ledger.Options{Now: func() time.Time { return w.real.Add(wrong) }})
}

// state is what the ledger adds up to, as far as l has it. It is shared, and goes on.
func (w *world) state(l *ledger.Ledger) (*catalog.State, error) {
	s := w.states[l]
	if s == nil {
		s = catalog.New()
		w.states[l] = s
	}
	return s, s.CatchUp(l.Records(w.ctx, s.Next))
}

// step lets somebody do something.
func (w *world) step() error {
	switch n := w.rng.IntN(100); {
	case n < 40 && len(w.jobs) > 0:
		j := w.jobs[w.rng.IntN(len(w.jobs))]
		if j.over {
			w.jobs = slices.DeleteFunc(w.jobs, func(o *job) bool { return o == j })
			return nil
		}
		return j.step()
	case n < 52:
		return w.startJob()
	case n < 62:
		return w.forget()
	case n < 66:
		return w.startReader()
	case n < 76 && len(w.readers) > 0:
		return w.read(w.readers[w.rng.IntN(len(w.readers))])
	case n < 80:
		return w.startPrune()
	case n < 83:
		return w.fence()
	case n < 86:
		return w.squeeze()
	case len(w.prunes) > 0:
		p := w.prunes[w.rng.IntN(len(w.prunes))]
		if p.over || w.rng.IntN(25) == 0 { // killed
			w.prunes = slices.DeleteFunc(w.prunes, func(o *pruning) bool { return o == p })
			return nil
		}
		return p.step()
	}
	return nil
}

func (w *world) startPrune() error {
	if len(w.prunes) == 2 {
		return nil
	}
	p, err := w.begin()
	if err == nil {
		w.prunes = append(w.prunes, p)
	}
	return err
}

// squeeze has a job that may refer to other guests' chunks and a prune that finds
// nobody needing them race to their ends.
func (w *world) squeeze() error {
	at := slices.IndexFunc(w.jobs, func(j *job) bool { return !j.over && j.at >= 1 && j.at <= 3 })
	if at < 0 {
		return nil
	}
	j := w.jobs[at]
	s, err := w.state(w.ledger)
	if err != nil {
		return err
	}
	for _, p := range s.Listed() {
		if p.Guest == j.gid {
			continue
		}
		if _, err := w.ledger.Append(w.ctx, id.Job{}, []events.Fact{events.PointForgotten{Point: p.Point, Guest: p.Guest}}, nil, nil); err != nil {
			return err
		}
	}
	if err := w.fenceAll(j.id); err != nil { // they would hold it all
		return err
	}
	p, err := w.begin()
	for err == nil && !(j.over && p.over) {
		if !j.over && (p.over || w.rng.IntN(2) == 0) {
			err = j.step()
		} else {
			err = p.step()
		}
	}
	return err
}

// fence declares some job dead that has not ended; it may well live.
func (w *world) fence() error {
	s, err := w.state(w.ledger)
	if err != nil {
		return err
	}
	var open []*catalog.Job
	for _, j := range s.JobList() {
		if j.Open() {
			open = append(open, j)
		}
	}
	if len(open) == 0 {
		return nil
	}
	w.kinds["fence"] = true
	_, err = w.ledger.Append(w.ctx, id.Job{}, []events.Fact{events.JobFenced{Fenced: open[w.rng.IntN(len(open))].ID}}, nil, nil)
	return err
}

// fenceAll declares all jobs but one dead.
func (w *world) fenceAll(but id.Job) error {
	s, err := w.state(w.ledger)
	if err != nil {
		return err
	}
	for _, j := range s.JobList() {
		if !j.Open() || j.ID == but {
			continue
		}
		if _, err := w.ledger.Append(w.ctx, id.Job{}, []events.Fact{events.JobFenced{Fenced: j.ID}}, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// forget forgets a point, mostly not the newest of a guest.
func (w *world) forget() error {
	s, err := w.state(w.ledger)
	if err != nil {
		return err
	}
	listed := s.Listed()
	if len(listed) == 0 {
		return nil
	}
	p := listed[w.rng.IntN(len(listed))]
	_, err = w.ledger.Append(w.ctx, id.Job{}, []events.Fact{events.PointForgotten{Point: p.Point, Guest: p.Guest}}, nil, nil)
	return err
}

// look reads every listed point whole.
func (w *world) look(when string) error {
	s, err := w.state(w.ledger)
	if err != nil {
		return err
	}
	for _, p := range s.Listed() {
		if err := w.whole(p); err != nil {
			return fmt.Errorf("%s, point %s of %s, committed at position %d: %w", when, id.Short(p.Point), p.GuestName, p.Position, err)
		}
	}
	for _, r := range w.readers {
		if !r.protected(s) {
			continue
		}
		if err := w.whole(r.point); err != nil {
			return fmt.Errorf("%s, point %s that a reader reads: %w", when, id.Short(r.point.Point), err)
		}
	}
	return nil
}

// pruning is a run of prune, in steps.
type pruning struct {
	w    *world
	work prune.Work
	l    *ledger.Ledger
	now  func() time.Time
	full bool
	at   int
	plan *prune.Plan
	over bool
}

// margin is real time that readers who cannot write have; clocks are wrong by up
// to ten days, so the margin of the model is longer than that.
const margin = 40 * 24 * time.Hour

func (w *world) begin() (*pruning, error) {
	l, err := w.open()
	if err != nil {
		return nil, err
	}
	wrong := time.Duration(w.rng.Int64N(int64(20*24*time.Hour))) - 10*24*time.Hour
	p := &pruning{w: w, l: l, full: w.rng.IntN(4) == 0, now: func() time.Time { return w.real.Add(wrong) }}
	keep := time.Duration(0)
	if w.rng.IntN(3) == 0 {
		keep = margin
	}
	p.work = prune.Work{Vault: w.vault, Ledger: l, Job: id.NewJob(), Margin: keep, Now: p.now}
	_, err = l.Append(w.ctx, p.work.Job, []events.Fact{events.JobStarted{Verb: prune.Verb}}, nil, nil)
	return p, err
}

func (p *pruning) step() error {
	w := p.w
	s, err := w.state(p.l)
	if err != nil {
		return err
	}
	if j := s.Jobs[p.work.Job]; j == nil || !j.Open() {
		p.over = true // fenced
		return nil
	}
	p.at++
	switch p.at {
	case 1, 3:
		if w.plant == NoHold {
			blind := *s
			blind.Jobs = map[id.Job]*catalog.Job{}
			s = &blind
		}
		p.plan, err = prune.Look(w.ctx, w.vault, s, prune.Options{Full: p.full, Sparse: 50, Scratch: w.scratch, Self: p.work.Job, Now: p.now(), Salvage: time.Hour})
		return err
	case 2, 4:
		if w.plant == NoGuard {
			p.plan.Position = s.Next
		}
		did, err := p.work.Retire(w.ctx, p.plan)
		w.note(did)
		if errors.Is(err, prune.ErrStale) {
			w.kinds["overtaken"] = true
			err = nil
		}
		if errors.Is(err, ledger.ErrFenced) {
			p.over, err = true, nil
		}
		return err
	case 5, 6:
		return p.delete(s)
	}
	p.over = true
	_, err = p.l.Append(w.ctx, p.work.Job, []events.Fact{events.JobFinished{Outcome: "done"}}, nil, nil)
	return err
}

func (w *world) note(r prune.Retired) {
	if r.Packs > r.Moved {
		w.kinds["packs"] = true
	}
	if r.Moved > 0 {
		w.kinds["sparse"] = true
	}
}

func (p *pruning) delete(s *catalog.State) error {
	w := p.w
	due, waiting := prune.Due(s, p.now(), p.work.Job)
	for _, each := range waiting {
		if len(each.Jobs) > 0 || len(each.Pins) > 0 {
			w.kinds["waits"] = true
		}
		if w.plant == NoWait || w.plant == ClockAlone && each.Until.IsZero() {
			due = append(due, each.Retirement)
		}
	}
	for _, r := range due {
		err := p.work.Delete(w.ctx, s, r)
		if errors.Is(err, ledger.ErrFenced) {
			p.over = true
			break
		}
		if errors.Is(err, prune.ErrNeeded) && w.plant != nothing {
			return fmt.Errorf("found before it was deleted: %w", err)
		}
		if err != nil {
			return err
		}
		w.deleted += len(r.Packs) + len(r.Tables)
		w.kinds["deleted"] = true
	}
	return w.look("after deleting")
}
