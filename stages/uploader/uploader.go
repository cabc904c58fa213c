package uploader

import (
	"context"
	"errors"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/patient"
)

const (
	packSize = 32 << 20
	idle     = 25 * time.Millisecond // after which we ask whether more is coming
	maxAge   = 15 * time.Second      // of an open pack
)

type stage struct {
	w     *flow.Worker
	store store.Store
	keys  *vault.Keys
	spell *patient.Spell // since a pack was last stored

	load    *load // the open pack; nil: none
	spliced bool  // chunks in parts have come: packs take them from now on
	held    []*flow.Delivery
}

// Run is the stage. keys need the data and metadata keys; p says how long a pack
// that could not be written is begun anew.
func Run(ctx context.Context, w *flow.Worker, st store.Store, keys *vault.Keys, p *patient.Patience) error {
	limit, err := pace.Of(w)
	if err != nil {
		return err
	}
	defer limit.Close()
	s := &stage{w: w, store: paced{st, limit}, keys: keys, spell: p.Spell()}
	defer func() {
		if s.load != nil {
			s.load.pack.Abort()
		}
	}()
	for {
		d, ok := w.TryNext(ctx, idle)
		switch {
		case !ok:
			if err := ctx.Err(); err != nil {
				return err
			}
			return s.flush(ctx)
		case d != nil:
			if err := s.take(ctx, d); err != nil {
				return err
			}
		}
		if err := s.maybeFlush(ctx, d == nil); err != nil {
			return err
		}
	}
}

// take writes a parcel's sealed chunks into the open pack.
func (s *stage) take(ctx context.Context, d *flow.Delivery) error {
	defer s.w.Meter.Working()()
	if d.Parcel == nil {
		return s.w.Settle(ctx, d, &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "receive", Object: flow.Uploader, Cause: "a message without a parcel", Remedy: "report this"})
	}
	s.w.Meter.In(uint64(d.Parcel.Claim.Length))
	if !d.Live() {
		return d.Done()
	}
	if s.load != nil && !s.load.fits(d.Parcel) {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	if s.load == nil {
		// One pack of whole chunks at most is closed early for a splice.
		s.spliced = s.spliced || spliced(d.Parcel)
		begin := vault.NewPackWriter
		if s.spliced {
			begin = vault.NewPartsWriter
		}
		p, err := begin(ctx, s.store, s.keys, s.w.Config.Job, s.w.Config.Work.Domain)
		if err != nil {
			return s.w.Settle(ctx, d, flow.VaultFault("open a pack", s.w.Config.Work.Vault, err))
		}
		s.load = newLoad(p, time.Now())
	}
	if err := s.load.add(&s.w.Config.Work, d.Parcel, d.Bytes()); err != nil {
		if patient.Passing(err) {
			s.held = append(s.held, d)
			return s.anew(ctx, err)
		}
		// The half pack goes first: on a full disk it takes the room that the
		// ledger needs for what is whole.
		dropped := s.drop()
		return errors.Join(s.w.Settle(ctx, d, err), dropped)
	}
	if !d.Live() {
		// We stood still while others finished this parcel, and what we wrote
		// may be another's bytes under its ids. Nothing of this pack may be used.
		return s.abandon(d)
	}
	s.held = append(s.held, d)
	return nil
}

// anew drops the open pack, which cannot be finished, and waits until the vault takes
// another. Only then its parcels are given back, to be packed again by whoever gets
// them: until then heartbeats go out for them. What a commit of unknown outcome may
// have left is a pack that no fact names.
func (s *stage) anew(ctx context.Context, err error) error {
	s.load.pack.Abort() // first, for the same reason as in take
	if last := s.spell.Wait(ctx, err); last != nil {
		f := flow.AsFault(err, flow.Uploader)
		if last != err {
			f = flow.AsFault(flow.VaultFault("write a pack", s.w.Config.Work.Vault, last), flow.Uploader)
		}
		s.w.Alarm(f)
		return errors.Join(f, s.drop())
	}
	return s.drop()
}

// abandon drops the open pack because of a parcel that is no longer ours.
func (s *stage) abandon(stale *flow.Delivery) error {
	return errors.Join(stale.Done(), s.drop())
}

// drop removes the open pack and gives its parcels back to be taken again.
func (s *stage) drop() error {
	s.load.pack.Abort()
	s.load = nil
	var errs []error
	for _, d := range s.held {
		errs = append(errs, d.Again())
	}
	s.held = s.held[:0]
	return errors.Join(errs...)
}

func (s *stage) maybeFlush(ctx context.Context, idle bool) error {
	if s.load == nil {
		return nil
	}
	switch {
	case s.load.pack.Size() >= packSize, len(s.held) >= flow.MaxAckPending/2, time.Since(s.load.opened) >= maxAge:
	case s.w.Pressed(ctx, len(s.held), idle):
	case idle && s.nothingComes(ctx):
	default:
		return nil
	}
	return s.flush(ctx)
}

// nothingComes reports whether all earlier stages are out of work. That the plan
// may still be growing costs a small pack, no more.
func (s *stage) nothingComes(ctx context.Context) bool {
	n, err := s.w.Queued(ctx)
	return err == nil && n[flow.Reader]+n[flow.Chunker]+n[flow.Delta]+n[flow.Seal] == 0
}

// flush makes the open pack durable and hands its parcels on. Nothing is said of
// a pack before the store has said that it would survive a power cut.
func (s *stage) flush(ctx context.Context) error {
	if s.load == nil {
		return nil
	}
	defer s.w.Meter.Working()()
	ref, err := s.load.close(ctx)
	if err != nil {
		return s.anew(ctx, flow.VaultFault("close a pack", s.w.Config.Work.Vault, err))
	}
	s.load = nil
	s.spell.Done()
	for _, d := range s.held {
		p := d.Parcel
		out := *p
		out.Claim = arena.Claim{}
		out.Packs = []flow.Pack{ref}
		s.w.Meter.CountPassed(uint64(p.Claim.Length))
		if err := s.w.Forward(ctx, d, flow.Indexer, &flow.Message{Parcel: &out}); err != nil {
			return err
		}
	}
	s.held = s.held[:0]
	return nil
}
