//go:build linux

package flow_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// intruder is a connection with a worker's credential and nothing of our code.
type intruder struct {
	*nats.Conn
	refused atomic.Int32
}

func (j *job) intrude(cfg flow.Config) *intruder {
	x := &intruder{}
	x.Conn = j.dial(cfg.Dial.User, string(cfg.Dial.Password), nats.CustomInboxPrefix(address.Inbox(cfg.Worker)),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
				x.refused.Add(1)
			}
		}))
	return x
}

// wantRefused does something and waits for the server's refusal.
func (x *intruder) wantRefused(t *testing.T, what string, do func() error) {
	t.Helper()
	before := x.refused.Load()
	if err := do(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	for since := time.Now(); x.refused.Load() == before; time.Sleep(time.Millisecond) {
		if time.Since(since) > 2*time.Second {
			t.Errorf("%s: not refused", what)
			return
		}
	}
}

func TestWorkersMayOnlyDoTheirOwn(t *testing.T) {
	j := newJob(t)
	other := j.config(flow.Chunker)
	cfg := j.config(flow.Chunker)
	x := j.intrude(cfg)
	j.put(flow.Seal, parcel(1))
	s := address.Stream(j.id)
	b, err := parcel(2).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{
		address.Subject(j.id, flow.Uploader), address.Subject(j.id, flow.Seal), address.Subject(j.id, flow.Chunker), address.Subject(j.id, flow.Snapshot),
		address.FactSubject(j.id), address.ProgressSubject(j.id), address.StatusSubject(j.id, other.Worker),
		"$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE." + s, "$JS.API.STREAM.DELETE." + s, "$JS.API.STREAM.PURGE." + s,
		"$JS.API.STREAM.MSG.DELETE." + s, "$JS.API.STREAM.MSG.GET." + s, "$JS.API.DIRECT.GET." + s, "$JS.API.STREAM.INFO." + s, "$JS.API.STREAM.NAMES",
		"$JS.API.CONSUMER.CREATE." + s + ".chunker", "$JS.API.CONSUMER.CREATE." + s, "$JS.API.CONSUMER.DURABLE.CREATE." + s + ".chunker",
		"$JS.API.CONSUMER.DELETE." + s + ".chunker", "$JS.API.CONSUMER.PAUSE." + s + ".chunker",
		"$JS.API.CONSUMER.MSG.NEXT." + s + ".seal", "$JS.API.CONSUMER.INFO." + s + ".seal",
		"$JS.ACK." + s + ".seal.1.1.1.1.1", "$SYS.REQ.SERVER.PING", address.Inbox(other.Worker) + ".x", "anything",
	} {
		x.wantRefused(t, "publish to "+subject, func() error { return x.PublishRequest(subject, address.Inbox(cfg.Worker)+".r", b) })
	}
	for _, subject := range []string{
		address.Inbox(other.Worker) + ".>", "_INBOX.>", "_INBOX_*.>", "_INBOX_>", ">", "*.>", "$JS.>", address.Subjects(j.id), address.StatusSubjects(j.id), address.FactSubject(j.id),
	} {
		x.wantRefused(t, "subscribe to "+subject, func() error {
			_, err := x.Subscribe(subject, func(m *nats.Msg) { t.Errorf("%s: got %q", subject, m.Data) })
			if errors.Is(err, nats.ErrBadSubject) {
				x.refused.Add(1)
				err = nil
			}
			return err
		})
	}
	// All of that changed nothing.
	n, err := flow.Depths(t.Context(), j.js, j.id, &j.work)
	if err != nil || n[flow.Seal] != 1 || n[flow.Uploader]+n[flow.Chunker]+n[flow.Snapshot] != 0 {
		t.Errorf("queues now: %v, %v", n, err)
	}
	if j.lastWord(other.Worker).PID != 0 {
		t.Error("a worker spoke in another's name")
	}
}

// What each stage must be able to do, it can.
func TestWorkersMayDoTheirWork(t *testing.T) {
	for _, work := range []flow.Work{{}, {Transport: flow.Inline}, {Remote: []string{flow.Seal}}, {Remote: []string{flow.Reader}}} {
		t.Run(work.Transport+strings.Join(work.Remote, ","), func(t *testing.T) { mayDoTheirWork(t, newJobOf(t, work)) })
	}
}

func mayDoTheirWork(t *testing.T, j *job) {
	for _, stage := range flow.Stages() {
		w := j.start(stage)
		j.put(stage, parcel(1))
		d := w.next(t)
		to := flow.Targets(stage)
		for _, next := range to[1:] {
			if err := w.Send(t.Context(), next, parcel(1)); err != nil {
				t.Error(stage, err)
			}
		}
		if err := w.Forward(t.Context(), d, to[0], parcel(1)); err != nil {
			t.Error(stage, err)
		}
		w.Alarm(&flow.Fault{Class: flow.Halt, Code: "test"})
		eventually(t, stage+" is heard", func() bool { return j.lastWord(w.Config.Worker).PID != 0 })
		w.close(t)
		j.makeRoom(to[0], 1)
		for _, next := range to[1:] {
			j.makeRoom(next, 1)
		}
	}
}

// The indexer alone may keep the live copy of the facts.
func TestFactsAreTheIndexers(t *testing.T) {
	j := newJob(t)
	w := j.start(flow.Indexer)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := w.JetStream().Publish(ctx, address.FactSubject(j.id), []byte("fact")); err != nil {
		t.Fatal(err)
	}
	s, err := w.JetStream().Stream(ctx, address.FactStream(j.id))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.GetLastMsgForSubject(ctx, address.FactSubject(j.id)); err != nil || string(m.Data) != "fact" {
		t.Errorf("%v, %v", m, err)
	}
	if live := j.hub.Live(); live.Stream != address.FactStream(j.id) || live.Subject != address.FactSubject(j.id) {
		t.Errorf("%+v", live)
	}
	if _, err := j.js.CreateStream(ctx, jetstream.StreamConfig{Name: "X", Subjects: []string{"x"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Error("the conductor may do everything:", err)
	}
}

func TestWrongPasswords(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	cfg := j.config(flow.Seal)
	for _, c := range [][2]string{{cfg.Dial.User, "guess"}, {cfg.Dial.User, ""}, {"nobody", string(cfg.Dial.Password)}, {"", ""}, {"conductor", string(cfg.Dial.Password)}, {"$SYS", ""}} {
		if nc, err := nats.Connect(j.url(), nats.UserInfo(c[0], c[1])); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%q with %q came in: %v", c[0], c[1], err)
			if nc != nil {
				nc.Close()
			}
		}
	}
	if nc, err := nats.Connect(j.url()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without a name: %v", err)
		if nc != nil {
			nc.Close()
		}
	}
	bad := cfg
	bad.Dial.Password = courier.Secret("guess")
	bad.Arena = j.handle()
	if _, err := flow.Connect(t.Context(), bad, nil); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a worker with a wrong password: %v", err)
	} else if strings.Contains(err.Error(), "guess") {
		t.Errorf("the error shows the password: %v", err)
	}
	wrongStage := cfg
	wrongStage.Stage, wrongStage.Arena = flow.Uploader, j.handle()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := flow.Connect(ctx, wrongStage, nil); err == nil {
		t.Error("a seal worker joined as uploader")
	}
}
