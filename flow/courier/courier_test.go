package courier

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	stream, subject, queue = "letters", "letters.box", "readers"
	places                 = 3
)

const (
	ackWait = time.Second
	beat    = 200 * time.Millisecond
)

// startServer starts a server with a work queue of n letters, and returns the queue
// as the server sees it.
func startServer(t *testing.T, n int) (*server.Server, jetstream.Consumer) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not listen")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	q, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: []string{subject}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	c, err := q.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: queue, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 64})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := js.Publish(t.Context(), subject, []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	return s, c
}

// wire is a way to a server that can be cut.
type wire struct {
	net.Listener
	to string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, to: to}
	t.Cleanup(func() { l.Close(); w.set(true) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.join(c)
		}
	}()
	return w
}

func (w *wire) join(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := net.Dial("tcp", w.to)
	if err != nil || w.cut {
		c.Close()
		return
	}
	w.conns = append(w.conns, c, s)
	go func() { _, _ = io.Copy(c, s); c.Close() }()
	go func() { _, _ = io.Copy(s, c); s.Close() }()
}

// set cuts the wire, or mends it.
func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// However often and long the way to the server is cut, it sends no more letters than
// there are places for, and only those that were on their way come again.
func TestNoMoreThanThereArePlacesFor(t *testing.T) {
	const letters, cuts = 60, 2
	s, atServer := startServer(t, letters)
	w := newWire(t, s.Addr().String())
	c, err := Join(t.Context(), Dial{URL: "nats://" + w.Addr().String(), Patience: time.Minute}, stream, queue, places)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.letters.wait = 100 * time.Millisecond // many requests while the wire is cut
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(chan *Letter, letters)
	var loops sync.WaitGroup
	loops.Go(func() {
		c.Receive(ctx, func(l *Letter) bool { got <- l; return true })
	})
	loops.Go(func() {
		for tick := time.Tick(beat); ctx.Err() == nil; <-tick {
			c.Beat()
		}
	})
	seen, again := map[string]bool{}, 0
	for len(seen) < letters {
		var l *Letter
		select {
		case l = <-got:
		case <-ctx.Done():
			t.Fatalf("%d letters have come", len(seen))
		}
		if n := len(seen); !seen[string(l.Data)] && (n == letters/4 || n == letters/2) {
			w.set(true)
			time.Sleep(ackWait)
			w.set(false)
			for c.nc.Status() != nats.CONNECTED {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(beat) // what was asked for meanwhile has been sent
		}
		if seen[string(l.Data)] = true; l.Tries > 1 {
			again++
		}
		info, err := atServer.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info.NumAckPending > 2*places { // and as many that were on their way
			t.Fatalf("after %d letters %d have been sent and are not settled, with %d places", len(seen), info.NumAckPending, places)
		}
		if err := l.Done(); err != nil {
			t.Fatal(err)
		}
		c.Taken()
	}
	if again > cuts*places {
		t.Errorf("%d letters came again, with %d places and %d cuts", again, places, cuts)
	}
	cancel()
	loops.Wait()
}

// A letter has one last word.
func TestSettledOnce(t *testing.T) {
	s, _ := startServer(t, 4)
	c, err := Join(t.Context(), Dial{URL: s.ClientURL()}, stream, queue, places)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	words := []func(*Letter) error{(*Letter).Done, (*Letter).Again, func(l *Letter) error { return l.Later(time.Hour) }}
	n := 0
	c.Receive(ctx, func(l *Letter) bool {
		if err := words[n](l); err != nil {
			t.Error(err)
		}
		if l.Done() == nil || l.Again() == nil {
			t.Errorf("letter %d was settled twice", n)
		}
		if n++; n == len(words) {
			cancel()
		}
		return false
	})
	if n != len(words) || c.Held() != 0 {
		t.Errorf("%d letters came, %d are held", n, c.Held())
	}
}
