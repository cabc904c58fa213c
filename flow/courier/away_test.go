package courier

import (
	"bytes"
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A worker that comes while the server is away, or has lost the queue, waits for both
// as long as it is told to, and no longer.
func TestJoinWaits(t *testing.T) {
	s, _ := startServer(t, 0)
	w := newWire(t, s.Addr().String())
	url := "nats://" + w.Addr().String()
	w.set(true)
	mended := time.AfterFunc(700*time.Millisecond, func() { w.set(false) })
	defer mended.Stop()
	c, err := Join(t.Context(), Dial{URL: url, Patience: time.Minute}, stream, queue, places)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	q, err := c.JetStream().Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.DeleteConsumer(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(700*time.Millisecond, func() {
		_, _ = q.CreateConsumer(context.Background(), jetstream.ConsumerConfig{Durable: queue, AckPolicy: jetstream.AckExplicitPolicy})
	})
	defer late.Stop()
	d, err := Join(t.Context(), Dial{URL: url, Patience: time.Minute}, stream, queue, places)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()

	begin := time.Now()
	if _, err := Join(t.Context(), Dial{URL: url}, stream, "nobody", places); err == nil || time.Since(begin) < DefaultPatience {
		t.Errorf("a queue that is not there: %v after %v", err, time.Since(begin))
	}
}

// Cut at any byte of what is sent, the way to the server takes no worker with it: what it
// could not post is said to be not there, and is there once it was posted again; what it
// could not settle comes again.
func TestCutsWhilePosting(t *testing.T) {
	s, _ := startServer(t, 0)
	w := newWire(t, s.Addr().String())
	c, err := Join(t.Context(), Dial{URL: "nats://" + w.Addr().String(), Patience: time.Minute}, stream, queue, places)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	to := Box{Stream: stream, Subject: subject}
	large := bytes.Repeat([]byte("x"), 512<<10) // more than a buffer holds: it is written at once
	unsent := 0
	for n := range 40 {
		var cut sync.WaitGroup
		if n%2 == 0 {
			// As a server that is killed leaves it: what is written next is refused, and the
			// client has not noticed yet.
			cut.Go(func() { w.set(true) })
		}
		r, err := c.PostAsync(ctx, to, append(strconv.AppendInt(nil, int64(n), 10), large...))
		if err != nil {
			t.Fatalf("post %d: %v", n, err)
		}
		if r.IsZero() {
			t.Fatalf("letter %d was not posted, and has no receipt that says so", n)
		}
		cut.Wait()
		w.set(false)
		if r.unsent {
			unsent++
			if stored, err := r.Await(ctx); stored || err != nil {
				t.Fatalf("letter %d, which could not be sent: %v, %v", n, stored, err)
			}
			if err := c.Post(ctx, to, large, func(d time.Duration) { time.Sleep(d) }); err != nil {
				t.Fatalf("post %d again: %v", n, err)
			}
		}
	}
	t.Logf("%d of 40 letters could not be sent at once", unsent)
	l := &Letter{c: c, msg: &nats.Msg{Reply: subject + ".ack"}}
	for range 20 {
		c.mu.Lock()
		c.held[l] = struct{}{}
		c.mu.Unlock()
		var cut sync.WaitGroup
		cut.Go(func() { w.set(true) })
		if err := l.Done(); err != nil {
			t.Fatal(err)
		}
		cut.Wait()
		w.set(false)
	}
	c.nc.Close()
	if _, err := c.PostAsync(ctx, to, large); err == nil {
		t.Error("a letter was posted on a connection that is closed")
	}
}
