package live

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// newLive starts a server inside the test.
func newLive(t *testing.T) Copy {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "test", DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server did not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "LEDGER", Subjects: []string{"ledger"}, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	return Copy{JS: js, Stream: "LEDGER", Subject: "ledger"}
}

func fact(n int) events.Fact { return events.StageScaled{Stage: "seal", To: uint32(n)} }

// segments makes two records for each position.
func segments(from, to uint64) (out []events.Record) {
	for p := from; p < to; p++ {
		for range 2 {
			r := events.NewRecord(time.Unix(1_800_000_000, 0), id.Job{1}, fact(int(p)))
			r.Position = p
			out = append(out, r)
		}
	}
	return out
}

// follow reads until it has n records or an error.
func follow(ctx context.Context, l Copy, from uint64, n int) (got []events.Record, err error) {
	for r, err := range l.Follow(ctx, from) {
		if err != nil {
			return got, err
		}
		if got = append(got, r); len(got) == n {
			break
		}
	}
	return got, nil
}

func TestFollowersSeeWhatIsPublishedOnce(t *testing.T) {
	l := newLive(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var group sync.WaitGroup
	for range 3 { // several processes tell the same
		group.Go(func() {
			for p := uint64(0); p < 40; p += 4 {
				if err := l.Publish(ctx, segments(p, p+4)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	got, err := follow(ctx, l, 0, 80)
	group.Wait()
	if err != nil || len(got) != 80 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i, r := range got {
		if r.Position != uint64(i/2) || r.Fact != fact(i/2) {
			t.Fatalf("record %d is %v at %d", i, r.Fact, r.Position)
		}
	}
	if got, err := follow(ctx, l, 38, 4); err != nil || got[0].Position != 38 {
		t.Errorf("from 38: %v %v", got, err)
	}
	s, err := l.JS.Stream(ctx, l.Stream)
	if err != nil || s.CachedInfo().State.Msgs != 40 {
		t.Errorf("stream holds %d messages, %v", s.CachedInfo().State.Msgs, err)
	}
}

func TestAFollowerNoticesWhatIsMissing(t *testing.T) {
	l := newLive(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Publish(ctx, segments(3, 8)); err != nil {
		t.Fatal(err)
	}
	if _, err := follow(ctx, l, 0, 100); !errors.Is(err, ErrGap) {
		t.Errorf("a copy that begins late: %v", err)
	}
	s, err := l.JS.Stream(ctx, l.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(ctx, 3); err != nil { // as a corrupt block would
		t.Fatal(err)
	}
	got, err := follow(ctx, l, 3, 100)
	if !errors.Is(err, ErrGap) || len(got) != 4 {
		t.Errorf("a message that is gone: %d records, %v", len(got), err)
	}
	// After it has read the vault it goes on behind the gap.
	if got, err := follow(ctx, l, 6, 4); err != nil || len(got) != 4 {
		t.Errorf("behind the gap: %d records, %v", len(got), err)
	}
	// A stream that was emptied goes on, too.
	if err := s.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.Publish(ctx, segments(8, 9)); err != nil {
		t.Fatal(err)
	}
	if got, err := follow(ctx, l, 8, 2); err != nil || len(got) != 2 {
		t.Errorf("after the purge: %d records, %v", len(got), err)
	}
}
