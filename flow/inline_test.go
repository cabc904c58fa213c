//go:build linux

package flow_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
)

// Which queues hold bytes follows from who may be elsewhere; what has left shared
// memory does not go back to it before seal makes something new.
func TestInlineHops(t *testing.T) {
	for _, c := range []struct {
		work flow.Work
		want []string
	}{
		{flow.Work{Transport: flow.Claim}, nil},
		{flow.Work{Transport: flow.Inline}, []string{flow.Chunker, flow.Delta, flow.Seal, flow.Uploader}},
		{flow.Work{Transport: flow.Claim, Remote: []string{flow.Uploader}}, []string{flow.Uploader}},
		{flow.Work{Transport: flow.Claim, Remote: []string{flow.Seal}}, []string{flow.Seal, flow.Uploader}},
		{flow.Work{Transport: flow.Claim, Remote: []string{flow.Chunker}}, []string{flow.Chunker, flow.Delta, flow.Seal}},
		{flow.Work{Transport: flow.Claim, Remote: []string{flow.Reader}}, []string{flow.Chunker, flow.Delta, flow.Seal}},
	} {
		got := c.work.Inlines()
		if len(got) != len(c.want) {
			t.Errorf("%s, elsewhere %v: %v", c.work.Transport, c.work.Remote, got)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s, elsewhere %v: %v", c.work.Transport, c.work.Remote, got)
			}
		}
	}
}

// A worker with an arena of its own sends from its slots; the slot is free once the
// server has the bytes. Where the queue is full it waits, the slot kept, and what
// carries no bytes passes by.
func TestBytesWaitQuestionsDoNot(t *testing.T) {
	j := newJobOf(t, flow.Work{Transport: flow.Inline})
	w := j.start(flow.Reader)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- w.Pump(ctx, arena.Raw, func(_ context.Context, d *flow.Delivery, slot arena.Slot) (string, *flow.Parcel, error) {
			n := copy(w.Arena.Bytes(slot.Number), bytes.Repeat([]byte{byte(d.Parcel.Number)}, 1000))
			d.Parcel.Claim = slot.Claim(n)
			return flow.Chunker, d.Parcel, nil
		})
	}()
	const parcels = flow.BytesQueued + 3
	for n := range parcels {
		j.put(flow.Reader, parcel(n))
	}
	eventually(t, "the queue is full", func() bool { return j.queued(flow.Chunker) == flow.BytesQueued })
	throughout(t, 300*time.Millisecond, "no more than that wait", func() bool { return j.queued(flow.Chunker) == flow.BytesQueued })
	if _, _, full := j.arena.Usage(arena.Raw); full > 0 {
		t.Errorf("%d slots belong to messages that have no claim", full)
	}
	asking := j.start(flow.Indexer)
	if err := asking.Send(t.Context(), flow.Snapshot, &flow.Message{Ask: &flow.Ask{Guest: 1}}); err != nil {
		t.Error("a question waits behind bytes:", err)
	}
	next := j.start(flow.Chunker)
	seen := map[byte]bool{}
	for len(seen) < parcels {
		d := next.next(t)
		b := d.Bytes()
		if !d.Live() || len(b) != 1000 || bytes.Count(b, []byte{byte(d.Parcel.Number)}) != 1000 {
			t.Fatalf("%s came with %d bytes", d.Parcel, len(b))
		}
		seen[b[0]] = true
		if err := d.Done(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the slots are free", func() bool { free, _, _ := j.arena.Usage(arena.Raw); return free == shape.RawSlots })
	cancel()
	<-served
}

// A claim from this host goes on inline where the next stage may be elsewhere. One
// that has become somebody else's by then is dropped: nobody sends a stranger's bytes.
func TestClaimGoesOnInline(t *testing.T) {
	j := newJobOf(t, flow.Work{Transport: flow.Claim, Remote: []string{flow.Seal}})
	live, stale := j.filled(1, arena.Raw, 99), j.filled(2, arena.Raw, 99)
	j.put(flow.Delta, live)
	j.put(flow.Delta, stale)
	w := j.start(flow.Delta)
	for range 2 {
		d := w.next(t)
		if d.Parcel.Number == 2 {
			j.arena.Release(stale.Parcel.Claim)
			if _, ok := j.arena.TryAcquire(arena.Raw, 98); !ok {
				t.Fatal("no slot")
			}
		}
		if err := w.Forward(t.Context(), d, flow.Seal, &flow.Message{Parcel: d.Parcel}); err != nil {
			t.Fatal(err)
		}
	}
	if n := j.queued(flow.Seal); n != 1 {
		t.Fatalf("%d parcels for seal", n)
	}
	d := j.start(flow.Seal).next(t)
	if d.Parcel.Number != 1 || !bytes.HasPrefix(d.Bytes(), []byte("bytes of parcel 1")) {
		t.Errorf("%s came with %q", d.Parcel, d.Bytes())
	}
	j.wantUsage(arena.Raw, shape.RawSlots-1, 1, 0)
}
