package uploader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
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

	pack   *vault.PackWriter
	opened time.Time
	raw    int64
	held   []*flow.Delivery
	placed map[id.Chunk]uint32 // chunks of the open pack: a twin is written once
}

// Run is the stage. keys need the data and metadata keys.
func Run(ctx context.Context, w *flow.Worker, st store.Store, keys *vault.Keys) error {
	s := &stage{w: w, store: st, keys: keys, placed: map[id.Chunk]uint32{}}
	defer func() {
		if s.pack != nil {
			s.pack.Abort()
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
	s.w.Meter.CountIn(uint64(d.Parcel.Claim.Length))
	if !d.Live() {
		return d.Done()
	}
	if s.pack == nil {
		p, err := vault.NewPackWriter(ctx, s.store, s.keys, s.w.Config.Job, s.w.Config.Work.Domain)
		if err != nil {
			return s.w.Settle(ctx, d, flow.VaultFault("open a pack", s.w.Config.Work.Vault, err))
		}
		s.pack, s.opened, s.raw = p, time.Now(), 0
		clear(s.placed)
	}
	if err := s.add(d); err != nil {
		// The half pack goes first: on a full disk it takes the room that the
		// ledger needs for what is whole.
		dropped := s.drop()
		return errors.Join(s.w.Settle(ctx, d, flow.VaultFault("write a pack", s.w.Config.Work.Vault, err)), dropped)
	}
	if !d.Live() {
		// We stood still while others finished this parcel, and what we wrote
		// may be another's bytes under its ids. Nothing of this pack may be used.
		return s.abandon(d)
	}
	s.held = append(s.held, d)
	return nil
}

func (s *stage) add(d *flow.Delivery) error {
	p, b := d.Parcel, d.Bytes()
	disk := s.w.Config.Work.Disks[p.Disk]
	owner := vault.PackDisk{Guest: s.w.Config.Work.Guests[disk.Guest].ID, Disk: disk.Info.Disk}
	for i := range p.Pieces {
		x := &p.Pieces[i]
		if x.Verdict != flow.New || x.Zero {
			continue
		}
		if at, twin := s.placed[x.Chunk]; twin {
			x.At = at
			continue
		}
		if uint64(x.At)+uint64(x.Stored) > uint64(len(b)) || x.Stored == 0 {
			return fmt.Errorf("%s: a sealed piece of %d bytes at %d of %d", p, x.Stored, x.At, len(b))
		}
		e := vault.PackEntry{Chunk: x.Chunk, GuestOffset: p.Offset + int64(x.Offset), Stored: x.Stored, Raw: x.Length}
		at, err := s.pack.Add(e, owner, b[x.At:x.At+x.Stored])
		if err != nil {
			return err
		}
		s.placed[x.Chunk] = at
		x.At = at
		s.raw += int64(x.Length)
	}
	return nil
}

// abandon drops the open pack because of a parcel that is no longer ours.
func (s *stage) abandon(stale *flow.Delivery) error {
	return errors.Join(stale.Done(), s.drop())
}

// drop removes the open pack and gives its parcels back to be taken again.
func (s *stage) drop() error {
	s.pack.Abort()
	s.pack = nil
	var errs []error
	for _, d := range s.held {
		errs = append(errs, d.Again())
	}
	s.held = s.held[:0]
	return errors.Join(errs...)
}

func (s *stage) maybeFlush(ctx context.Context, idle bool) error {
	if s.pack == nil {
		return nil
	}
	free, _, _ := s.w.Arena.Usage(arena.Sealed)
	switch {
	case s.pack.Size() >= packSize, len(s.held) >= flow.MaxAckPending/2, time.Since(s.opened) >= maxAge:
	case free == 0 && (idle || len(s.held) >= s.w.Arena.Shape().SealedSlots*3/4):
		// Seal waits for room that only we can make. While more sealed parcels
		// are at hand they are taken first: the pack grows, and they free nothing.
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
	if s.pack == nil {
		return nil
	}
	defer s.w.Meter.Working()()
	pack := s.pack
	s.pack = nil
	info, err := pack.Close(ctx)
	if err != nil {
		f := flow.AsFault(flow.VaultFault("close a pack", s.w.Config.Work.Vault, err), flow.Uploader)
		s.w.Alarm(f)
		return f
	}
	ref := flow.Pack{Name: info.Name, Size: info.Size, Chunks: uint32(len(info.Entries)), Raw: s.raw, Key: info.DataKey}
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
