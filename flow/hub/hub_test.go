package hub_test

import (
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/flow/hub"
	"github.com/millrace-backup/millrace/id"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What queues do for workers is tested in flow, through this package.

func startServer(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxMemory: 512 << 20,
		Username: "conductor", Password: "secret",
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	for since := time.Now(); s.Addr() == nil || !s.JetStreamEnabled(); time.Sleep(time.Millisecond) {
		if time.Since(since) > 10*time.Second {
			t.Fatal("the server does not listen")
		}
	}
	return s
}

func join(t *testing.T, s *server.Server, job id.Job) *hub.Hub {
	t.Helper()
	h, err := hub.Join(courier.Dial{User: "conductor", Password: courier.Secret("secret")}, s, job, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// Several jobs may share a server: their queues are apart.
func TestJobsAreApart(t *testing.T) {
	s := startServer(t)
	one, two := id.NewJob(), id.NewJob()
	a, b := join(t, s, one), join(t, s, two)
	if n := a.Depths(t.Context()); len(n) != 0 {
		t.Errorf("queues that are not there hold %v", n)
	}
	for _, h := range []*hub.Hub{a, b} {
		if err := h.MakeQueues(t.Context(), &flow.Work{}, 1); err != nil {
			t.Fatal(err)
		}
	}
	js := a.Live().JS
	if _, err := js.Publish(t.Context(), address.Subject(one, flow.Seal), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, m := a.Depths(t.Context()), b.Depths(t.Context()); n[flow.Seal] != 1 || m[flow.Seal] != 0 {
		t.Errorf("%v and %v", n, m)
	}
	// Made twice is harmless: a conductor that asks again finds what it made.
	if err := a.MakeQueues(t.Context(), &flow.Work{}, 1); err != nil {
		t.Error(err)
	}
	if n := a.Depths(t.Context()); n[flow.Seal] != 1 {
		t.Errorf("made again, the queues hold %v", n)
	}
}

// The queues are as the package promises, whatever the server's defaults.
func TestQueuesAreAsPromised(t *testing.T) {
	job := id.NewJob()
	h := join(t, startServer(t), job)
	if err := h.MakeQueues(t.Context(), &flow.Work{}, 1); err != nil {
		t.Fatal(err)
	}
	js := h.Live().JS
	s, err := js.Stream(t.Context(), address.Stream(job))
	if err != nil {
		t.Fatal(err)
	}
	c := s.CachedInfo().Config
	if c.Storage != jetstream.MemoryStorage || c.Retention != jetstream.WorkQueuePolicy || c.Discard != jetstream.DiscardNew || !c.DiscardNewPerSubject || c.MaxMsgsPerSubject != flow.MaxQueued || c.MaxMsgs > 0 || c.MaxAge != 0 {
		t.Errorf("%+v", c)
	}
	for _, stage := range flow.Stages() {
		q, err := s.Consumer(t.Context(), stage)
		if err != nil {
			t.Fatal(stage, err)
		}
		c := q.CachedInfo().Config
		if c.AckPolicy != jetstream.AckExplicitPolicy || c.AckWait != flow.AckWait || c.MaxDeliver != -1 || c.MaxAckPending != flow.MaxAckPending || c.FilterSubject != address.Subject(job, stage) || c.InactiveThreshold != 0 {
			t.Errorf("%s: %+v", stage, c)
		}
	}
}

// Reports that do not decode are passed over, those behind them are heard.
func TestListen(t *testing.T) {
	job := id.NewJob()
	s := startServer(t)
	h := join(t, s, job)
	statuses, progress := make(chan flow.Status, 10), make(chan string, 10)
	if err := h.Listen(func(s flow.Status) { statuses <- s }, func(b []byte) { progress <- string(b) }); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("conductor", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	good, err := events.Marshal(flow.Status{Stage: flow.Seal, Worker: 7, Fault: &flow.Fault{Class: flow.Halt, Code: "store-full"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{good[:10], []byte("\xdf\xff\xff\xff\xff"), nil, good} {
		if err := nc.Publish(address.StatusSubject(job, 7), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Publish(address.ProgressSubject(job), []byte("half")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case s := <-statuses:
			if s.Stage != flow.Seal || s.Worker != 7 || s.Fault == nil || s.Fault.Code != "store-full" {
				t.Errorf("%+v", s)
			}
		case p := <-progress:
			if p != "half" {
				t.Errorf("%q", p)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing is heard")
		}
	}
	if len(statuses) != 0 {
		t.Errorf("nonsense was heard as %+v", <-statuses)
	}
}
