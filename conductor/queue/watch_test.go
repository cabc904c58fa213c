package queue

import (
	"context"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/id"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// elsewhere is an operator's server.
func elsewhere(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxMemory: 64 << 20,
		Username: "mill", Password: "secret",
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

// What a server loses of a job's queues is noticed, whatever it is, and is there again;
// parcels of which each has its message are left alone.
func TestWhatIsLostIsNoticed(t *testing.T) {
	for name, c := range map[string]struct {
		held  int
		spoil func(ctx context.Context, js jetstream.JetStream, stream string) error
		want  string
	}{
		"nothing": {1, func(context.Context, jetstream.JetStream, string) error { return nil }, ""},
		"a stream": {0, func(ctx context.Context, js jetstream.JetStream, stream string) error {
			return js.DeleteStream(ctx, stream)
		}, "its streams are gone"},
		"the queue of a stage": {1, func(ctx context.Context, js jetstream.JetStream, stream string) error {
			return js.DeleteConsumer(ctx, stream, flow.Delta)
		}, "mended"},
		"messages": {1, func(ctx context.Context, js jetstream.JetStream, stream string) error {
			s, err := js.Stream(ctx, stream)
			if err == nil {
				err = s.Purge(ctx)
			}
			return err
		}, "messages are gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait
			s, job, work := elsewhere(t), id.NewJob(), &flow.Work{}
			q, err := Reach(t.Context(), courier.Dial{URL: s.ClientURL(), User: "mill", Password: courier.Secret("secret")}, job, work)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(q.Close)
			js, err := jetstream.New(q.Hub.Conn())
			if err == nil {
				_, err = js.Publish(t.Context(), address.Subject(job, flow.Seal), []byte("a parcel's message"))
			}
			if err == nil {
				err = c.spoil(t.Context(), js, address.Stream(job))
			}
			if err != nil {
				t.Fatal(err)
			}
			told := make(chan string, 100)
			ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
			defer stop()
			go q.Watch(ctx, work, Care{
				Held:   func() int { return c.held },
				Lost:   func(why string) { told <- why },
				Mended: func() { told <- "mended" },
				Gone:   func(err error) { told <- err.Error() },
			})
			got := ""
			select {
			case got = <-told:
			case <-time.After(map[bool]time.Duration{true: 2 * patient * 500 * time.Millisecond, false: 20 * time.Second}[c.want == ""]):
			}
			if got != c.want {
				t.Errorf("told %q, want %q", got, c.want)
			}
			for {
				if left, err := q.Hub.Look(ctx); err == nil && left.Streams && left.Consumers {
					return
				} else if ctx.Err() != nil {
					t.Fatalf("the queues are not made again: %+v, %v", left, err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}
