package flow

import (
	"context"
	"errors"

	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/meter"
	"golang.org/x/sync/errgroup"
)

// Step turns a parcel into the next one. It returns the stage to send to and
// the parcel, or "" when the parcel is to be dropped (its claim was stale). slot
// is a slot of the pool that Pump was given, to be filled if the returned
// parcel's claim names it; otherwise Pump releases it.
type Step func(ctx context.Context, d *Delivery, slot arena.Slot) (to string, out *Parcel, err error)

// maxTries is how often a parcel is delivered that asks to be tried again.
const maxTries = 5

// Pump runs step over the stage's parcels until the worker drains or the job
// stops. It takes a slot to be filled only once it has a parcel to fill it with:
// where slots are scarcer than workers, one that waits with a slot and no parcel,
// and one with a parcel and no slot, would wait for ever. A parcel does not age
// meanwhile, since heartbeats go out for all that is held.
func (w *Worker) Pump(ctx context.Context, pool arena.Pool, step Step) error {
	g, ctx := errgroup.WithContext(ctx)
	out := make(chan handOver, w.inFlight())
	g.Go(func() error {
		for h := range out {
			if err := w.finish(ctx, h); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		defer close(out)
		return w.pump(ctx, pool, step, out)
	})
	return g.Wait()
}

func (w *Worker) pump(ctx context.Context, pool arena.Pool, step Step, out chan<- handOver) error {
	var slot arena.Slot
	for {
		d, ok := w.Next(ctx)
		if !ok {
			return errors.Join(ctx.Err(), w.Lost())
		}
		slot = arena.Slot{}
		if pool != arena.NoSlot {
			s, err := w.acquireUnlessDraining(ctx, pool)
			if err != nil {
				return err
			}
			if s.Generation == 0 {
				return errors.Join(d.Again(), ctx.Err(), w.Lost())
			}
			slot = s
		}
		h, err := w.step(ctx, d, slot, step)
		if err != nil {
			return err
		}
		if p := h.m; slot.Generation != 0 && (p == nil || p.Parcel == nil || p.Parcel.Claim.Slot != slot.Number || p.Parcel.Claim.Generation != slot.Generation) {
			w.Arena.Release(slot.Claim(0)) // the step had no use for it
		}
		if h.receipt.IsZero() {
			continue // dropped or settled as a fault
		}
		leave := w.Meter.Enter(meter.Blocked)
		select {
		case out <- h:
			leave()
		case <-ctx.Done():
			leave()
			return ctx.Err()
		}
	}
}

// acquireUnlessDraining waits for room as long as there is something to wait for.
// It returns no slot, and no error, when the worker is to leave.
func (w *Worker) acquireUnlessDraining(ctx context.Context, pool arena.Pool) (arena.Slot, error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.receiving, cancel)()
	s, err := w.Acquire(waiting, pool)
	if err != nil && ctx.Err() == nil {
		return arena.Slot{}, nil
	}
	return s, err
}

func (w *Worker) step(ctx context.Context, d *Delivery, slot arena.Slot, step Step) (handOver, error) {
	if d.Parcel == nil {
		return handOver{}, &Fault{Class: Corrupt, Code: "bad-message", Op: "receive", Object: w.Config.Stage, Cause: "a message without a parcel", Remedy: "report this"}
	}
	w.Meter.In(uint64(d.Parcel.Claim.Length))
	leave := w.Meter.Enter(meter.Busy)
	to, parcel, err := step(ctx, d, slot)
	leave()
	switch {
	case ctx.Err() != nil:
		return handOver{}, ctx.Err()
	case err != nil:
		return handOver{}, w.Settle(ctx, d, err)
	case to == "":
		return handOver{}, d.Done()
	}
	return w.publish(ctx, d, to, &Message{Parcel: parcel})
}

// Settle decides what becomes of a message that could not be handled. A nil
// result means that it is settled and the stage goes on; an error stops the
// worker, and with it the job.
func (w *Worker) Settle(ctx context.Context, d *Delivery, err error) error {
	f := AsFault(err, w.Config.Stage)
	if d.Parcel != nil && !f.ByDisk {
		f.ByDisk, f.Disk = true, d.Parcel.Disk
	}
	switch {
	case f.Class == Retry && d.Tries < maxTries:
		return d.Later()
	case f.Class == Retry || f.Class == Park:
		return w.Forward(ctx, d, Indexer, &Message{Fault: f})
	}
	w.Alarm(f)
	return f
}
