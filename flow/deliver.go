package flow

import (
	"context"
	"time"

	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/flow/meter"
)

// Delivery is a message as a worker holds it, until it is settled by exactly one
// of Forward (through [Worker.Pump] or [Worker.Forward]), Done or a fault.
type Delivery struct {
	*Message
	Tries    uint64    // 1 at the first delivery
	QueuedAt time.Time // when it was published

	w      *Worker
	letter *courier.Letter
	claim  arena.Claim // what it came with: a step changes the parcel
}

// Live reports whether the parcel's bytes are still its own. Ask before reading
// them and again after: only the second answer says that what was read was true.
// Bytes that came in the message are the parcel's own for good.
func (d *Delivery) Live() bool {
	if d.Payload != nil || d.w.Arena.Live(d.claim) {
		return true
	}
	d.w.Meter.CountStale()
	return false
}

// Bytes are the parcel's bytes, wherever they are: to be read, not written to.
func (d *Delivery) Bytes() []byte {
	if d.Payload != nil {
		return d.Payload
	}
	c := d.claim
	if !d.w.Arena.Valid(c) {
		return nil
	}
	return d.w.Arena.Bytes(c.Slot)[:c.Length]
}

// Done settles a message with nothing to follow it.
func (d *Delivery) Done() error { return d.letter.Done() }

// Again gives the message back, to be delivered anew to any worker of the stage.
func (d *Delivery) Again() error { return d.letter.Again() }

// Later is Again after a heartbeat's time, for what cannot be done yet.
func (d *Delivery) Later() error { return d.letter.Later(Heartbeat) }

// Next waits for a message. False means that nothing more comes: the worker
// drains, ctx is over, or the server is lost ([Worker.Lost]).
func (w *Worker) Next(ctx context.Context) (*Delivery, bool) {
	defer w.Meter.Enter(meter.Starved)()
	select {
	case d, ok := <-w.queue:
		return w.taken(d), ok
	case <-ctx.Done():
		return nil, false
	}
}

// taken makes room for another message to be fetched.
func (w *Worker) taken(d *Delivery) *Delivery {
	if d != nil {
		w.courier.Taken()
	}
	return d
}

// Await is Next for a goroutine beside the worker's main one: it leaves the
// account of the worker's time alone.
func (w *Worker) Await(ctx context.Context) (*Delivery, bool) {
	select {
	case d, ok := <-w.queue:
		return w.taken(d), ok
	case <-ctx.Done():
		return nil, false
	}
}

// TryNext is Next that waits at most this long; nil, true means nothing came.
func (w *Worker) TryNext(ctx context.Context, wait time.Duration) (*Delivery, bool) {
	defer w.Meter.Enter(meter.Starved)()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case d, ok := <-w.queue:
		return w.taken(d), ok
	case <-ctx.Done():
		return nil, false
	case <-t.C:
		return nil, true
	}
}

// Acquire takes a free slot of the pool, waiting for one if need be.
func (w *Worker) Acquire(ctx context.Context, c arena.Pool) (arena.Slot, error) {
	if s, ok := w.Arena.TryAcquire(c, w.Config.Worker); ok {
		return s, nil
	}
	defer w.Meter.Enter(meter.Blocked)()
	return w.Arena.Acquire(ctx, c, w.Config.Worker)
}

// Send stores a message in the queue of a stage and returns when the server has
// it. A full queue (see [MaxQueued]) is waited for; other failures are tried
// again for a while: a second copy does no harm.
func (w *Worker) Send(ctx context.Context, to string, m *Message) error {
	b, err := m.Encode()
	if err != nil {
		return err
	}
	return w.courier.Post(ctx, w.box(to), b, func(d time.Duration) {
		defer w.Meter.Enter(meter.Blocked)()
		rest(ctx, d)
	})
}

// rest sleeps, unless ctx ends.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// handOver is a parcel on its way downstream.
type handOver struct {
	d       *Delivery
	to      string
	m       *Message // as the step made it: its claim is what this worker lets go of
	b       []byte   // as it was posted
	receipt courier.Receipt
}

// publish sends a message on. Nothing is sent, and the delivery is settled, where
// its claim turns out to be somebody else's.
func (w *Worker) publish(ctx context.Context, d *Delivery, to string, m *Message) (handOver, error) {
	defer w.Meter.Enter(meter.Blocked)()
	b, live, err := w.stow(d, to, m)
	if err != nil {
		return handOver{}, err
	}
	if !live {
		return handOver{}, d.Done()
	}
	r, err := w.courier.PostAsync(ctx, w.box(to), b)
	return handOver{d: d, to: to, m: m, b: b, receipt: r}, err
}

// finish waits until the server has the message, then lets go of what the
// upstream message held. A crash before the acknowledgement upstream repeats the
// parcel; a crash before the release leaves the slot to the repeated parcel,
// which finds it live and goes through, or stale and is dropped. Nothing leaks:
// a slot marked full always has a message.
func (w *Worker) finish(ctx context.Context, h handOver) error {
	stored, err := h.receipt.Await(ctx)
	if err != nil {
		return err
	}
	if !stored {
		// Not Send: in Pump, the account is of the goroutine that works.
		if err := w.courier.Post(ctx, w.box(h.to), h.b, func(d time.Duration) { rest(ctx, d) }); err != nil {
			return err
		}
	}
	w.settled(h)
	return h.d.Done()
}

// settled lets go of the slots. One whose bytes went along in the message is free;
// one that the message claims belongs to it from here on.
func (w *Worker) settled(h handOver) {
	var next arena.Claim
	if p := h.m.Parcel; p != nil {
		next = p.Claim
		w.Meter.Out(uint64(next.Length))
	}
	if !next.IsZero() {
		if w.Config.Work.Inline(h.to) {
			w.Arena.Release(next)
		} else {
			w.Arena.Promote(next)
		}
	}
	if !h.d.claim.IsZero() && h.d.claim != next {
		w.Arena.Release(h.d.claim)
	}
}

// Forward hands a parcel on and settles the delivery it came from, in one step.
func (w *Worker) Forward(ctx context.Context, d *Delivery, to string, m *Message) error {
	defer w.Meter.Enter(meter.Blocked)()
	h, err := w.publish(ctx, d, to, m)
	if err != nil || h.receipt.IsZero() {
		return err
	}
	return w.finish(ctx, h)
}
