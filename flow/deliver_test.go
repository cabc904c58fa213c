//go:build linux

package flow_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/arena"
)

// Two workers of a stage share its queue, and nobody gets what the other has.
func TestWorkersShareWork(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	const n = 60
	for i := range n {
		j.put(flow.Chunker, parcel(i))
	}
	seen := map[uint32]int{}
	var mu sync.Mutex
	var g sync.WaitGroup
	each := make([]int, 2)
	together := make(chan struct{}, 2) // both hold a message at the same time
	for x := range 2 {
		w := j.start(flow.Chunker)
		g.Go(func() {
			for first := true; ; first = false {
				d, ok := w.TryNext(t.Context(), 500*time.Millisecond)
				if !ok || d == nil {
					return
				}
				if first {
					together <- struct{}{}
					for since := time.Now(); len(together) < 2 && time.Since(since) < patience; {
						time.Sleep(time.Millisecond)
					}
				}
				mu.Lock()
				seen[d.Parcel.Number]++
				mu.Unlock()
				each[x]++
				if d.Tries != 1 || d.QueuedAt.IsZero() {
					t.Errorf("%s: try %d, queued at %v", d.Parcel, d.Tries, d.QueuedAt)
				}
				if err := d.Done(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if len(seen) != n || each[0]+each[1] != n || each[0] == 0 || each[1] == 0 {
		t.Errorf("%d different parcels, %v to each worker; want %d shared", len(seen), each, n)
	}
	eventually(t, "the queue is empty", func() bool { return j.queued(flow.Chunker) == 0 })
}

// A message whose holder is gone comes to another worker after AckWait.
func TestUnacknowledgedIsRedelivered(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	j.put(flow.Chunker, parcel(7))
	dead := j.start(flow.Chunker)
	if d := dead.next(t); d.Parcel.Number != 7 {
		t.Fatal(d.Parcel)
	}
	dead.close(t) // leaves without a word about what it holds
	since := time.Now()
	heir := j.start(flow.Chunker)
	d := heir.next(t)
	if d.Parcel.Number != 7 || d.Tries != 2 {
		t.Fatalf("%s, try %d", d.Parcel, d.Tries)
	}
	if waited := time.Since(since); waited > 3*flow.AckWait {
		t.Errorf("redelivered after %v", waited)
	}
	if err := d.Done(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the redelivery is counted", func() bool { return j.lastWord(heir.Config.Worker).Redelivered == 1 })
}

// Every message a worker has got is kept by heartbeats, whether it is being
// worked on or waits in the worker's queue, for as long as it takes.
func TestHeartbeatsKeepMessages(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	for i := range 2 * flow.Prefetch {
		j.put(flow.Seal, parcel(i))
	}
	slow := j.start(flow.Seal)
	first := slow.next(t) // and more are fetched, nobody takes them
	eventually(t, "more are fetched", func() bool { return j.lastWord(slow.Config.Worker).Held > 1 })
	fast := j.start(flow.Seal)
	got := map[uint32]bool{}
	ctx, stop := context.WithCancel(t.Context())
	var g sync.WaitGroup
	var mu sync.Mutex
	g.Go(func() {
		for {
			d, ok := fast.Next(ctx)
			if !ok {
				return
			}
			mu.Lock()
			got[d.Parcel.Number] = true
			if d.Tries != 1 {
				t.Errorf("%s was taken from its holder (try %d)", d.Parcel, d.Tries)
			}
			mu.Unlock()
			if err := d.Done(); err != nil {
				t.Error(err)
			}
		}
	})
	throughout(t, 5*flow.AckWait, "the slow worker keeps what it holds", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return !got[first.Parcel.Number]
	})
	stop()
	g.Wait()
	// The slow one goes on, and finds the rest where it was.
	for d := first; d != nil; d, _ = slow.TryNext(t.Context(), 200*time.Millisecond) {
		if got[d.Parcel.Number] || d.Tries != 1 {
			t.Errorf("%s came twice (try %d)", d.Parcel, d.Tries)
		}
		got[d.Parcel.Number] = true
		if err := d.Done(); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 2*flow.Prefetch {
		t.Errorf("%d of %d parcels were seen", len(got), 2*flow.Prefetch)
	}
	if s := j.lastWord(slow.Config.Worker); s.Redelivered != 0 {
		t.Errorf("%d redeliveries", s.Redelivered)
	}
}

// A worker asks for no more than it has room for: the rest is there for others.
func TestPrefetchIsBounded(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	for i := range 40 {
		j.put(flow.Seal, parcel(i))
	}
	w := j.start(flow.Seal)
	w.next(t)
	eventually(t, "some are fetched", func() bool { return j.lastWord(w.Config.Worker).Held >= flow.Prefetch })
	throughout(t, 3*flow.Heartbeat, "only a few are fetched", func() bool {
		return j.lastWord(w.Config.Worker).Held <= flow.Prefetch+1
	})
}

// Duplicates carry claims that others have settled. They are dropped and free nothing.
func TestDuplicatesAreDropped(t *testing.T) {
	j := newJob(t)
	m := j.filled(1, arena.Raw, 99)
	j.put(flow.Chunker, m)
	j.put(flow.Chunker, m) // the producer was not sure
	w := j.start(flow.Chunker)
	pumped, stop := pump(t, w, arena.NoSlot, func(_ context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
		if !d.Live() {
			return "", nil, nil
		}
		if got := string(d.Bytes()); got != "bytes of parcel 1" {
			t.Errorf("the parcel's bytes are %q", got)
		}
		d.Parcel.Claim = arena.Claim{}
		return flow.Delta, d.Parcel, nil
	})
	eventually(t, "one goes on", func() bool { return j.queued(flow.Delta) >= 1 && j.queued(flow.Chunker) == 0 })
	j.wantUsage(arena.Raw, 4, 0, 0)

	// The next tenant is in the slot when a third copy comes.
	tenant := j.filled(2, arena.Raw, 98).Parcel.Claim
	if tenant.Slot != m.Parcel.Claim.Slot {
		t.Fatalf("the test wants the same slot again: %+v, %+v", tenant, m.Parcel.Claim)
	}
	j.put(flow.Chunker, m)
	eventually(t, "the third copy is dropped", func() bool { return j.queued(flow.Chunker) == 0 })
	if !j.arena.Live(tenant) {
		t.Fatal("a duplicate freed the slot of another parcel")
	}
	j.wantUsage(arena.Raw, 3, 1, 0)
	if n := j.queued(flow.Delta); n < 1 || n > 2 { // two if the second came before the first had let go
		t.Errorf("%d copies went on", n)
	}
	eventually(t, "stale claims are counted", func() bool { return j.lastWord(w.Config.Worker).Stale >= 1 })
	stop()
	if err := <-pumped; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// pump runs Pump beside the test; stop ends it, its result comes through the channel.
func pump(t *testing.T, w *worker, pool arena.Pool, step flow.Step) (result chan error, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	result = make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		result <- w.Pump(ctx, pool, step)
	}()
	t.Cleanup(func() { cancel(); <-done }) // before the worker is closed
	return result, cancel
}

// crowd fills the queue of a stage to its limit.
func (j *job) crowd(stage string) {
	j.t.Helper()
	for i := range flow.MaxQueued {
		j.put(stage, parcel(1000+i))
	}
	b, _ := parcel(1).Encode()
	if _, err := j.js.Publish(j.t.Context(), address.Subject(j.id, stage), b); err == nil {
		j.t.Fatalf("the queue of %s took number %d", stage, flow.MaxQueued+1)
	}
}

// makeRoom settles one message of a stage.
func (j *job) makeRoom(stage string, n int) {
	j.t.Helper()
	stream := address.Stream(j.id)
	if j.work.Inline(stage) {
		stream = address.ByteStream(j.id)
	}
	c, err := j.js.Consumer(j.t.Context(), stream, stage)
	if err != nil {
		j.t.Fatal(err)
	}
	for range n {
		m, err := c.Next()
		if err == nil {
			err = m.DoubleAck(j.t.Context())
		}
		if err != nil {
			j.t.Fatal(err)
		}
	}
}

// The slot a parcel came in, and the message it came by, are let go only when
// the next message is stored. Here it is refused for a while.
func TestForwardReleasesLast(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	j.crowd(flow.Uploader)
	raw := j.filled(3, arena.Raw, 99)
	j.put(flow.Seal, raw)
	w := j.start(flow.Seal)
	d := w.next(t)
	s, err := w.Acquire(t.Context(), arena.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	sealed := *d.Parcel
	sealed.Claim = s.Claim(10)
	done := make(chan error, 1)
	go func() { done <- w.Forward(t.Context(), d, flow.Uploader, &flow.Message{Parcel: &sealed}) }()
	throughout(t, 3*flow.AckWait/2, "nothing is let go", func() bool {
		_, filling, _ := j.arena.Usage(arena.Sealed)
		return j.arena.Live(raw.Parcel.Claim) && filling == 1 && j.queued(flow.Seal) == 1 && len(done) == 0
	})
	j.makeRoom(flow.Uploader, 1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if j.arena.Live(raw.Parcel.Claim) {
		t.Error("the raw slot was kept")
	}
	j.wantUsage(arena.Sealed, 3, 0, 1)
	eventually(t, "the message is settled", func() bool { return j.queued(flow.Seal) == 0 })
	if n := j.queued(flow.Uploader); n != flow.MaxQueued {
		t.Errorf("%d messages wait for uploader, want %d: one was lost or doubled", n, flow.MaxQueued)
	}
}

// A hand-over that never succeeds lets nothing go.
func TestForwardThatFails(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	j.crowd(flow.Uploader)
	raw := j.filled(3, arena.Raw, 99)
	j.put(flow.Seal, raw)
	w := j.start(flow.Seal)
	d := w.next(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := w.Forward(ctx, d, flow.Uploader, &flow.Message{Parcel: d.Parcel})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if !j.arena.Live(raw.Parcel.Claim) || j.queued(flow.Seal) != 1 {
		t.Fatal("a parcel was let go that nobody has")
	}
}

// The plan of a huge disk waits for room in the queue, and all of it arrives.
func TestSendWaitsForRoom(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	w := j.start(flow.Snapshot)
	for i := range flow.MaxQueued {
		if err := w.Send(t.Context(), flow.Reader, parcel(i)); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- w.Send(t.Context(), flow.Reader, parcel(flow.MaxQueued)) }()
	throughout(t, 300*time.Millisecond, "Send waits", func() bool { return len(done) == 0 })
	r := j.start(flow.Reader)
	seen := map[uint32]bool{}
	for len(seen) <= flow.MaxQueued {
		d := r.next(t)
		seen[d.Parcel.Number] = true
		if err := d.Done(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil || !seen[flow.MaxQueued] {
		t.Fatalf("the last parcel: sent %v, received %v", err, seen[flow.MaxQueued])
	}
	eventually(t, "waiting is in the account", func() bool {
		return time.Duration(j.lastWord(w.Config.Worker).BlockedNS) >= 200*time.Millisecond
	})

	// Who has to leave while waiting is told so.
	j.crowd(flow.Reader)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.Send(ctx, flow.Reader, parcel(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// What a worker says of its time adds up, and only grows.
func TestStatusesAddUp(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	began := time.Now()
	w := j.start(flow.Chunker)
	result, stop := pump(t, w, arena.NoSlot, func(_ context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
		return flow.Delta, d.Parcel, nil
	})
	for i := range 300 {
		j.put(flow.Chunker, parcel(i))
	}
	eventually(t, "all are through", func() bool { return j.queued(flow.Delta) == 300 && j.queued(flow.Chunker) == 0 })
	stop()
	<-result
	w.close(t)
	eventually(t, "the last word", func() bool { return j.lastWord(w.Config.Worker).Final })
	var before flow.Status
	for i, s := range j.said(w.Config.Worker) {
		if s.BusyNS < before.BusyNS || s.StarvedNS < before.StarvedNS || s.BlockedNS < before.BlockedNS || s.InParcels < before.InParcels {
			t.Errorf("report %d: %+v after %+v", i, s, before)
		}
		if before.Final {
			t.Errorf("report %d comes after the last word", i)
		}
		before = s
	}
	if sum := time.Duration(before.BusyNS + before.StarvedNS + before.BlockedNS); sum > time.Since(began) || sum < time.Since(began)/2 {
		t.Errorf("times add up to %v in %v", sum, time.Since(began))
	}
	if before.InParcels != 300 || before.OutParcels != 300 || before.Held != 0 {
		t.Errorf("%+v", before)
	}
	if before.Stage != flow.Chunker || before.Worker != w.Config.Worker || before.PID == 0 {
		t.Errorf("who is it? %+v", before)
	}
}

// A message that is not one of ours raises an alarm and does not come again.
func TestBadMessageAlarms(t *testing.T) {
	j := newJob(t)
	if _, err := j.js.Publish(t.Context(), address.Subject(j.id, flow.Delta), []byte("\xc1 nonsense")); err != nil {
		t.Fatal(err)
	}
	w := j.start(flow.Delta)
	j.wantAlarm(w, flow.Corrupt, "bad-message")
	eventually(t, "it is gone", func() bool { return j.queued(flow.Delta) == 0 })
	j.put(flow.Delta, parcel(1)) // the worker is well
	if d := w.next(t); d.Parcel.Number != 1 {
		t.Error(d.Parcel)
	}
}

// wantAlarm waits for a worker's status with a fault in it.
func (j *job) wantAlarm(w *worker, class flow.Class, code string) (fault *flow.Fault) {
	j.t.Helper()
	eventually(j.t, fmt.Sprintf("an alarm %s %s", class, code), func() bool {
		for _, s := range j.said(w.Config.Worker) {
			if s.Fault != nil {
				fault = s.Fault
			}
		}
		return fault != nil
	})
	if fault.Class != class || fault.Code != code || fault.Stage != w.Config.Stage {
		j.t.Errorf("the alarm is %+v", fault)
	}
	return fault
}
