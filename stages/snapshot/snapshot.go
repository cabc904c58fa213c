package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
	"golang.org/x/sync/errgroup"
)

// Driver is what the stage needs of a hypervisor.
type Driver interface {
	hypervisor.Freezer
	hypervisor.Opener
}

// DriverFor returns the driver of a guest.
type DriverFor func(g flow.WorkGuest) (Driver, error)

type stage struct {
	w       *flow.Worker
	drivers DriverFor
	blocks  *chunk.Blocks // hashes blocks as the parent's are; nil: nothing is compared

	mu    sync.Mutex               // guards holds and their plans
	holds map[uint32]*hold         // by guest
	said  map[uint32]*flow.Message // by guest: its plan, or why there is none
}

// hold is a frozen guest.
type hold struct {
	driver Driver
	guest  hypervisor.Guest
	frozen hypervisor.Frozen
	since  time.Time
	plans  map[uint32]*plan // by disk; nil until the indexer has them; see stage.mu
	over   atomic.Bool      // the guest is settled: what is left need not be sent
	worst  atomic.Int64     // ns: the longest that its requests took, on average of a second
	slowed atomic.Int64     // ns: how long readers were held back because of it
}

// errOver ends the sending of a guest that is settled.
var errOver = errors.New("the guest is settled")

// Run is the stage: one process per job. It returns when it is told to drain. blocks is
// of the job's dedup domain.
func Run(ctx context.Context, w *flow.Worker, drivers DriverFor, blocks *chunk.Blocks) error {
	s := &stage{w: w, drivers: drivers, blocks: blocks, holds: map[uint32]*hold{}, said: map[uint32]*flow.Message{}}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.answer(ctx) })
	g.Go(func() error { return s.sendAll(ctx) })
	g.Go(func() error { s.watch(ctx); return nil })
	err := g.Wait()
	for _, h := range s.holds {
		// After an error another process is to take up the freezes that outlive this one.
		if h.frozen.Hold != nil && err == nil {
			err = h.frozen.Release(context.WithoutCancel(ctx), false)
		}
	}
	return err
}

func (s *stage) sendAll(ctx context.Context) error {
	defer s.w.Meter.Resting()
	for n := range s.w.Config.Work.Guests {
		err := s.backUp(ctx, uint32(n))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errOver) {
			continue
		}
		var f *flow.Fault
		if errors.As(err, &f) && f.Class == flow.Park {
			err = s.park(ctx, uint32(n), f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) park(ctx context.Context, guest uint32, f *flow.Fault) error {
	f = flow.AsFault(f, flow.Snapshot)
	f.Guest, f.ByDisk = guest, false
	return s.tell(ctx, guest, &flow.Message{Fault: f})
}

// tell sends the indexer what becomes of a guest, and keeps it: should the server
// lose it, the indexer asks for it.
func (s *stage) tell(ctx context.Context, guest uint32, m *flow.Message) error {
	s.mu.Lock()
	s.said[guest] = m
	s.mu.Unlock()
	return s.w.Send(ctx, flow.Indexer, m)
}

// guest translates what the job knows into the driver's words.
func (s *stage) guest(n uint32) hypervisor.Guest {
	g := s.w.Config.Work.Guests[n]
	out := hypervisor.Guest{ID: g.ID, Name: g.Name, Driver: g.Driver, Source: g.Source, Config: g.Config}
	for _, d := range s.w.Config.Work.DisksOf(n) {
		disk := DiskOf(s.w.Config.Work.Disks[d])
		disk.Since = s.w.Config.Work.Disks[d].Since
		out.Disks = append(out.Disks, disk)
	}
	for _, u := range g.Unprotected {
		out.Unprotected = append(out.Unprotected, hypervisor.Unprotected{Key: u.Key, Reason: u.Reason})
	}
	return out
}

// backUp freezes one guest and sends its plan, its parcels and those read twice.
func (s *stage) backUp(ctx context.Context, n uint32) error {
	if _, err := os.Stat(s.releasedMark(n)); err == nil {
		return nil // a predecessor was told that this guest is settled
	}
	h, seed, err := s.freeze(ctx, n)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.holds[n] = h
	s.mu.Unlock()
	var recheck []flow.Marks
	facts, plans := s.opening(n, h), map[uint32]*plan{}
	for i, d := range s.w.Config.Work.DisksOf(n) {
		p, err := s.plan(ctx, h, d, i, seed)
		if err != nil {
			return err
		}
		plans[d] = p
		facts = append(facts, p.fact)
		recheck = append(recheck, p.sample(seed, h.frozen.RecheckPercent))
	}
	b, err := encode(s.w.Config.Job, facts...)
	if err != nil {
		return err
	}
	if err := s.tell(ctx, n, &flow.Message{Plan: &flow.Plan{Guest: n, Facts: b, Marks: recheck}}); err != nil {
		return err
	}
	// Questions are answered only now: a successor of a killed process may ask
	// for more to be read twice, and the indexer has to know before it is told
	// that the images held still.
	s.mu.Lock()
	h.plans = plans
	s.mu.Unlock()
	for _, d := range s.w.Config.Work.DisksOf(n) {
		if err := s.send(ctx, h, plans[d], all, flow.PassBackup, false); err != nil {
			return err
		}
	}
	for _, m := range recheck {
		if err := s.send(ctx, h, plans[m.Disk], m.Has, flow.PassRecheck, false); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) opening(n uint32, h *hold) []events.Fact {
	g := s.w.Config.Work.Guests[n]
	seen := events.GuestInspected{
		Guest: g.ID, Name: g.Name, Driver: g.Driver, Source: g.Source, Config: g.Config, Unprotected: g.Unprotected,
	}
	taken := events.SnapshotTaken{
		Guest: g.ID, At: events.At(h.since), Consistency: h.frozen.Consistency, Method: h.frozen.Method, Policy: s.w.Config.Work.Freeze,
		Reason: h.frozen.Reason, RecheckPercent: h.frozen.RecheckPercent, Record: h.frozen.Record(), FreezeNS: int64(h.frozen.Stood),
	}
	for i, d := range s.w.Config.Work.DisksOf(n) {
		info := s.w.Config.Work.Disks[d].Info
		seen.Disks = append(seen.Disks, info)
		disk := events.SnapshotDisk{Disk: info.Disk}
		if i < len(h.frozen.Tracking) {
			disk.TrackingKind, disk.Token = h.frozen.Tracking[i].Kind, h.frozen.Tracking[i].Token
		}
		taken.Disks = append(taken.Disks, disk)
	}
	return []events.Fact{seen, taken}
}

func encode(job id.Job, facts ...events.Fact) ([]byte, error) {
	now := time.Now()
	records := make([]events.Record, len(facts))
	for i, f := range facts {
		records[i] = events.NewRecord(now, job, f)
	}
	b, err := events.EncodeRecords(records)
	if err != nil {
		return nil, fmt.Errorf("encode facts: %w", err)
	}
	return b, nil
}

// answer serves the indexer's questions until the worker drains.
func (s *stage) answer(ctx context.Context) error {
	for {
		d, ok := s.w.Await(ctx)
		if !ok {
			return ctx.Err()
		}
		if d.Ask == nil {
			if err := d.Done(); err != nil {
				return err
			}
			continue
		}
		if err := s.serve(ctx, d); err != nil {
			return err
		}
	}
}

func (s *stage) serve(ctx context.Context, d *flow.Delivery) error {
	a := d.Ask
	if int(a.Guest) >= len(s.w.Config.Work.Guests) {
		return s.w.Settle(ctx, d, &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "answer", Object: flow.Snapshot, Cause: fmt.Sprintf("the job has no guest %d", a.Guest), Remedy: "report this"})
	}
	s.mu.Lock()
	h, said := s.holds[a.Guest], s.said[a.Guest]
	var plans map[uint32]*plan
	if h != nil {
		plans = h.plans
	}
	s.mu.Unlock()
	switch {
	case a.Release:
		facts, err := s.release(ctx, a.Guest, h, a.Kept)
		if err != nil {
			return err
		}
		return s.w.Forward(ctx, d, flow.Indexer, &flow.Message{Answer: &flow.Answer{Guest: a.Guest, Released: true, Facts: facts}})
	case a.Plan && said == nil: // its turn is still to come
		return d.Done()
	case a.Plan:
		return s.w.Forward(ctx, d, flow.Indexer, said)
	case plans == nil: // restarted, and not there yet
		return d.Later()
	case a.Confirm:
		if err := h.frozen.Changed(ctx); err != nil {
			f := changed(h.guest.Source, err)
			f.Guest, f.Stage = a.Guest, flow.Snapshot
			return s.w.Forward(ctx, d, flow.Indexer, &flow.Message{Fault: f})
		}
		return s.w.Forward(ctx, d, flow.Indexer, &flow.Message{Answer: &flow.Answer{Guest: a.Guest, Confirmed: true}})
	}
	if err := s.sendListed(ctx, h, plans, a.Reread, a.Pass, a.Fresh); err != nil && !errors.Is(err, errOver) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f := flow.AsFault(err, flow.Snapshot)
		f.Guest = a.Guest
		return s.w.Settle(ctx, d, f)
	}
	return d.Done()
}

func changed(source string, err error) *flow.Fault {
	return &flow.Fault{
		Class: flow.Park, Code: "source-changed", Op: "read image", Object: source, Cause: err.Error(), Err: err,
		Remedy: "shut the guest down, or back it up through its hypervisor, then run the job again; nothing of it is listed",
	}
}

func (s *stage) release(ctx context.Context, n uint32, h *hold, kept bool) ([]byte, error) {
	if err := os.WriteFile(s.releasedMark(n), nil, 0o600); err != nil {
		return nil, fmt.Errorf("note that a guest is settled: %w", err)
	}
	fact := events.SnapshotReleased{Guest: s.w.Config.Work.Guests[n].ID, Verdict: "unknown"}
	if h != nil {
		h.over.Store(true)
	}
	if h == nil || h.frozen.Hold == nil {
		if err := s.releaseRecord(ctx, n, kept); err != nil {
			fact.Detail = err.Error()
		}
	} else {
		fact.HeldNS, fact.LatencyNS, fact.SlowedNS = int64(time.Since(h.since)), h.worst.Load(), h.slowed.Load()
		fact.Verdict = "unchanged"
		if err := h.frozen.Changed(ctx); err != nil {
			fact.Verdict, fact.Detail = "changed", err.Error()
		}
		if err := h.frozen.Release(ctx, kept); err != nil {
			fact.Detail = err.Error()
		}
	}
	return encode(s.w.Config.Job, fact)
}

// releaseRecord lets go of a freeze that a predecessor of this process made, and may have
// begun to let go of when it died.
func (s *stage) releaseRecord(ctx context.Context, n uint32, kept bool) error {
	r, err := readRecord(s.recordPath(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	driver, err := s.drivers(s.w.Config.Work.Guests[n])
	if releaser, ok := driver.(hypervisor.Releaser); ok && err == nil {
		err = releaser.ReleaseRecord(ctx, s.guest(n), r.Driver, kept)
	}
	return err
}

// recordPath is the file with the record of the freeze of guest n.
func (s *stage) recordPath(n uint32) string {
	return filepath.Join(s.w.Config.Folder, fmt.Sprintf("freeze-%d.json", n))
}

// releasedMark is the file that says that guest n is settled.
func (s *stage) releasedMark(n uint32) string {
	return filepath.Join(s.w.Config.Folder, fmt.Sprintf("freeze-%d.released.json", n))
}
