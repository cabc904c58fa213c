//go:build linux

package flow_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/nats-io/nats.go/jetstream"
)

// read is a reader's step in small: it fills the slot it is given.
func read(w *worker) flow.Step {
	return func(_ context.Context, d *flow.Delivery, slot arena.Slot) (string, *flow.Parcel, error) {
		d.Parcel.Claim = slot.Claim(copy(w.Arena.Bytes(slot.Number), fmt.Sprintf("bytes of parcel %d", d.Parcel.Number)))
		return flow.Chunker, d.Parcel, nil
	}
}

// Parcels go through reader, chunker, delta, seal and end at uploader; there are
// far more than slots, two workers of each, and one is replaced on the way.
func TestPipeline(t *testing.T) {
	j := newJob(t)
	const parcels = 300
	var g sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	run := func(stage string, pool arena.Pool, step func(*worker) flow.Step) *worker {
		w := j.start(stage)
		g.Go(func() {
			if err := w.Pump(ctx, pool, step(w)); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(stage, err)
			}
		})
		return w
	}
	pass := func(to string) func(*worker) flow.Step {
		return func(*worker) flow.Step {
			return func(_ context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
				if !d.Live() {
					return "", nil, nil
				}
				return to, d.Parcel, nil
			}
		}
	}
	seal := func(w *worker) flow.Step {
		return func(_ context.Context, d *flow.Delivery, slot arena.Slot) (string, *flow.Parcel, error) {
			if !d.Live() {
				return "", nil, nil
			}
			n := copy(w.Arena.Bytes(slot.Number), "sealed "+string(d.Bytes()))
			if !d.Live() {
				return "", nil, nil
			}
			d.Parcel.Claim = slot.Claim(n)
			return flow.Uploader, d.Parcel, nil
		}
	}
	var sealers []*worker
	for range 2 {
		run(flow.Reader, arena.Raw, read)
		run(flow.Chunker, arena.NoSlot, pass(flow.Delta))
		run(flow.Delta, arena.NoSlot, pass(flow.Seal))
		sealers = append(sealers, run(flow.Seal, arena.Sealed, seal))
	}
	got := make(map[uint32]int)
	up := j.start(flow.Uploader)
	plan := j.start(flow.Snapshot)
	g.Go(func() {
		for i := range parcels {
			if err := plan.Send(ctx, flow.Reader, parcel(i)); err != nil {
				t.Error(err)
			}
		}
	})
	for len(got) < parcels {
		d := up.next(t)
		if d.Live() {
			if want := fmt.Sprintf("sealed bytes of parcel %d", d.Parcel.Number); string(d.Bytes()) != want {
				t.Errorf("%q, want %q", d.Bytes(), want)
			}
			got[d.Parcel.Number]++
		}
		out := *d.Parcel
		out.Claim = arena.Claim{}
		if err := up.Forward(ctx, d, flow.Indexer, &flow.Message{Parcel: &out}); err != nil {
			t.Fatal(err)
		}
		if len(got) == parcels/2 {
			sealers[0].drain(t)
			sealers = append(sealers, run(flow.Seal, arena.Sealed, seal))
			sealers[0] = sealers[len(sealers)-1]
			sealers = sealers[:2]
		}
	}
	eventually(t, "only the indexer's queue holds messages", func() bool {
		n, err := flow.Depths(ctx, j.js, j.id, &j.work)
		return err == nil && n[flow.Reader]+n[flow.Chunker]+n[flow.Delta]+n[flow.Seal]+n[flow.Uploader] == 0 && n[flow.Indexer] >= parcels
	})
	cancel()
	g.Wait()
	// Workers that ended in the middle leave their empty slots to the reaper.
	for n := range uint32(40) {
		j.arena.Reap(n)
	}
	j.wantUsage(arena.Raw, shape.RawSlots, 0, 0)
	j.wantUsage(arena.Sealed, shape.SealedSlots, 0, 0)
}

// An error that may pass is tried again, five times in all; then the guest is
// given up, which the indexer is told, and its slot is free.
func TestRetryThenPark(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	m := j.filled(5, arena.Raw, 99)
	m.Parcel.Disk = 3
	j.put(flow.Chunker, m)
	w := j.start(flow.Chunker)
	var tries atomic.Int32
	pumped, stop := pump(t, w, arena.NoSlot, func(context.Context, *flow.Delivery, arena.Slot) (string, *flow.Parcel, error) {
		tries.Add(1)
		return "", nil, fmt.Errorf("wrapped: %w", &flow.Fault{Class: flow.Retry, Code: "busy", Op: "read", Object: "disk", Err: errors.New("try later")})
	})
	x := j.start(flow.Indexer)
	d := x.next(t)
	f := d.Fault
	if f == nil || f.Code != "busy" || f.Stage != flow.Chunker || f.Cause != "try later" || !f.ByDisk || f.Disk != 3 {
		t.Fatalf("indexer was told %+v", f)
	}
	if tries.Load() != 5 {
		t.Errorf("%d tries, want 5", tries.Load())
	}
	if err := d.Done(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left of it", func() bool { return j.queued(flow.Chunker) == 0 && j.queued(flow.Indexer) == 0 })
	j.wantUsage(arena.Raw, shape.RawSlots, 0, 0)
	stop()
	<-pumped
}

// A fault that parks goes to the indexer at once, and others go on.
func TestParkAndGoOn(t *testing.T) {
	j := newJob(t)
	j.put(flow.Reader, parcel(0))
	j.put(flow.Reader, parcel(1))
	w := j.start(flow.Reader)
	good := read(w)
	pump(t, w, arena.Raw, func(ctx context.Context, d *flow.Delivery, s arena.Slot) (string, *flow.Parcel, error) {
		if d.Parcel.Number == 0 {
			return "", nil, &flow.Fault{Class: flow.Park, Code: "image-unreadable", Op: "read", Object: "disk", Cause: "bad sector"}
		}
		return good(ctx, d, s)
	})
	if d := j.start(flow.Indexer).next(t); d.Fault == nil || d.Fault.Class != flow.Park || d.Tries != 1 {
		t.Fatalf("%+v", d.Message)
	}
	if d := j.start(flow.Chunker).next(t); string(d.Bytes()) != "bytes of parcel 1" {
		t.Fatalf("%q", d.Bytes())
	}
	for _, s := range j.said(w.Config.Worker) {
		if s.Fault != nil {
			t.Errorf("an alarm for a guest that is given up: %+v", s.Fault)
		}
	}
}

// Damage and a vault that is gone stop the worker, and say so past the queue. So
// does an error that says nothing of itself. The message is not settled.
func TestFaultsThatStop(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		class flow.Class
		code  string
	}{
		{"corrupt", &flow.Fault{Class: flow.Corrupt, Code: "seal-mismatch", Op: "seal", Object: "chunk", Cause: "other id"}, flow.Corrupt, "seal-mismatch"},
		{"halt", &flow.Fault{Class: flow.Halt, Code: "store-full", Op: "write", Object: "vault", Cause: "no space"}, flow.Halt, "store-full"},
		{"unknown", errors.New("what is this?"), flow.Halt, "failed"},
		{"a class of a later version", &flow.Fault{Class: 77, Code: "new"}, 77, "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJob(t)
			m := j.filled(1, arena.Raw, 99)
			j.put(flow.Seal, m)
			w := j.start(flow.Seal)
			pumped, _ := pump(t, w, arena.Sealed, func(context.Context, *flow.Delivery, arena.Slot) (string, *flow.Parcel, error) {
				return "", nil, c.err
			})
			err := <-pumped
			var f *flow.Fault
			if !errors.As(err, &f) || f.Class != c.class || f.Code != c.code {
				t.Fatalf("Pump ended with %v", err)
			}
			j.wantAlarm(w, c.class, c.code)
			if j.queued(flow.Seal) != 1 || !j.arena.Live(m.Parcel.Claim) {
				t.Error("the parcel was settled")
			}
		})
	}
}

// A worker that is asked to leave finishes what it works on and gives the rest
// back at once: another has it before AckWait is over.
func TestDrain(t *testing.T) {
	j := newJob(t)
	const parcels = 12
	for i := range parcels {
		j.put(flow.Chunker, parcel(i))
	}
	w := j.start(flow.Chunker)
	working, finish := make(chan bool, parcels), make(chan bool)
	var mu sync.Mutex
	did := map[uint32]bool{}
	pumped, _ := pump(t, w, arena.NoSlot, func(_ context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
		working <- true
		<-finish
		mu.Lock()
		did[d.Parcel.Number] = true
		mu.Unlock()
		return flow.Delta, d.Parcel, nil
	})
	<-working
	eventually(t, "some are fetched", func() bool { return j.lastWord(w.Config.Worker).Held >= flow.Prefetch })
	w.drain(t)
	select {
	case <-w.Draining():
	case <-time.After(patience):
		t.Fatal("asked to leave, and did not hear")
	}
	eventually(t, "what nobody has begun is given back", func() bool { return j.lastWord(w.Config.Worker).Held == 1 })
	since := time.Now()
	heir := j.start(flow.Chunker)
	for range parcels - 1 {
		d := heir.next(t)
		mu.Lock()
		if did[d.Parcel.Number] {
			t.Errorf("%s was done twice", d.Parcel)
		}
		did[d.Parcel.Number] = true
		mu.Unlock()
		if err := d.Done(); err != nil {
			t.Fatal(err)
		}
	}
	if waited := time.Since(since); waited > flow.AckWait*9/10 {
		t.Errorf("the heir waited %v: messages were dropped, not given back", waited)
	}
	close(finish)
	if err := <-pumped; err != nil {
		t.Fatal("Pump ended with", err)
	}
	if _, ok := w.Next(t.Context()); ok {
		t.Error("a worker that has left got a message")
	}
	if len(did) != parcels || j.queued(flow.Delta) != 1 {
		t.Errorf("%d of %d parcels were done, %d handed on", len(did), parcels, j.queued(flow.Delta))
	}
	eventually(t, "all is settled", func() bool { return j.queued(flow.Chunker) == 0 })
}

// A worker that waits for room, or for messages, leaves when it is asked to, and
// keeps no slot.
func TestDrainWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, full := range []bool{true, false} {
		t.Run(fmt.Sprintf("arena full %v", full), func(t *testing.T) {
			j := newJob(t)
			if full {
				for range shape.SealedSlots {
					j.filled(0, arena.Sealed, 99)
				}
			}
			w := j.start(flow.Seal)
			pumped, _ := pump(t, w, arena.Sealed, func(context.Context, *flow.Delivery, arena.Slot) (string, *flow.Parcel, error) {
				t.Error("there is nothing to do")
				return "", nil, nil
			})
			eventually(t, "it waits", func() bool {
				s := j.lastWord(w.Config.Worker)
				return s.BlockedNS+s.StarvedNS > int64(flow.Heartbeat/2)
			})
			w.drain(t)
			select {
			case err := <-pumped:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatal("it does not leave")
			}
			if j.arena.Reap(w.Config.Worker) != 0 {
				t.Error("it kept a slot")
			}
		})
	}
}

// Closing a worker while messages come touches no memory that is gone, and
// what it held goes to somebody else.
func TestCloseInFullWork(t *testing.T) {
	j := newJob(t)
	m := j.filled(1, arena.Raw, 99)
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() {
		for ctx.Err() == nil {
			b, _ := m.Encode()
			_, _ = j.js.Publish(ctx, address.Subject(j.id, flow.Chunker), b) // full at times
		}
	})
	for range 10 {
		w := j.start(flow.Chunker)
		for range 5 {
			if err := w.next(t).Done(); err != nil {
				t.Error(err)
			}
		}
		w.close(t)
	}
	cancel()
	g.Wait()
	last := j.start(flow.Chunker)
	for j.queued(flow.Chunker) > 0 {
		d, _ := last.TryNext(t.Context(), 2*flow.AckWait)
		if d == nil {
			if n := j.queued(flow.Chunker); n > 0 { // else the last acknowledgement was under way
				t.Fatalf("%d messages do not come back", n)
			}
			break
		}
		if err := d.Done(); err != nil {
			t.Error(err)
		}
	}
}

// A server that is gone for good ends the worker, and not as if all were well.
func TestServerGone(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	w := j.start(flow.Delta)
	pumped, _ := pump(t, w, arena.NoSlot, func(context.Context, *flow.Delivery, arena.Slot) (string, *flow.Parcel, error) {
		return "", nil, nil
	})
	j.server.Shutdown()
	select {
	case err := <-pumped:
		if err == nil || w.Lost() == nil {
			t.Errorf("Pump ended with %v, lost %v", err, w.Lost())
		}
	case <-time.After(15 * time.Second):
		t.Fatal("it waits for a server that does not come back")
	}
}

// Pump takes the slot before the message: without room no message is taken.
func TestNoRoomNoMessage(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	var held []arena.Claim
	for range shape.RawSlots {
		held = append(held, j.filled(0, arena.Raw, 99).Parcel.Claim)
	}
	j.put(flow.Reader, parcel(4))
	w := j.start(flow.Reader)
	pump(t, w, arena.Raw, read(w))
	throughout(t, 300*time.Millisecond, "nothing is read", func() bool { return j.lastWord(w.Config.Worker).InParcels == 0 })
	j.arena.Release(held[2])
	if d := j.start(flow.Chunker).next(t); d.Parcel.Claim.Slot != held[2].Slot || string(d.Bytes()) != "bytes of parcel 4" {
		t.Errorf("%+v: %q", d.Parcel.Claim, d.Bytes())
	}
}

// A step that asks for nonsense stops its worker: nothing malformed is sent.
func TestStepsCannotSendNonsense(t *testing.T) {
	j := newJob(t)
	j.put(flow.Chunker, parcel(1))
	w := j.start(flow.Chunker)
	pumped, _ := pump(t, w, arena.NoSlot, func(_ context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
		d.Parcel.Pieces = flow.Pieces{{Length: 5, Zero: true}} // of 64 KiB
		return flow.Delta, d.Parcel, nil
	})
	if err := <-pumped; err == nil {
		t.Error("it was sent")
	}
	if j.queued(flow.Delta) != 0 || j.queued(flow.Chunker) != 1 {
		t.Error("the parcel was settled")
	}
}

// The account of stored messages is there for who may ask.
func TestQueued(t *testing.T) {
	j := newJob(t)
	j.put(flow.Seal, parcel(1))
	for _, stage := range []string{flow.Uploader, flow.Indexer} {
		w := j.start(stage)
		n, err := w.Queued(t.Context())
		if err != nil || n[flow.Seal] != 1 || n[flow.Reader] != 0 {
			t.Errorf("%s sees %v, %v", stage, n, err)
		}
	}
	if n := j.hub.Depths(t.Context()); n[flow.Seal] != 1 || len(n) != len(flow.Stages()) {
		t.Errorf("the hub sees %v", n)
	}
	if x, err := j.js.Stream(t.Context(), address.FactStream(j.id)); err != nil || x.CachedInfo().Config.Storage != jetstream.MemoryStorage {
		t.Errorf("the facts' stream: %v", err)
	}
}

// What the indexer says of the job goes to the conductor as it is.
func TestProgress(t *testing.T) {
	j := newJob(t)
	w := j.start(flow.Indexer)
	if err := w.Publish(address.ProgressSubject(j.id), []byte("half")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "progress arrives", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return len(j.progress) == 1 && string(j.progress[0]) == "half"
	})
}
