package hub

import (
	"context"
	"fmt"
	"net"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/live"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Server is one in this process: no socket is needed to reach it.
type Server interface {
	InProcessConn() (net.Conn, error)
}

// Hub is a connection with all rights.
type Hub struct {
	job  id.Job
	nc   *nats.Conn
	js   jetstream.JetStream
	work *flow.Work
}

// Join connects to the server.
func Join(s Server, job id.Job, user, password string) (*Hub, error) {
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo(user, password), nats.Name(user))
	if err != nil {
		return nil, fmt.Errorf("connect to the job's server: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return &Hub{job: job, nc: nc, js: js, work: &flow.Work{}}, nil
}

// Close leaves the server.
func (h *Hub) Close() { h.nc.Close() }

// MakeQueues makes the job's streams and consumers.
func (h *Hub) MakeQueues(ctx context.Context, work *flow.Work) error {
	h.work = work
	if err := h.makeQueue(ctx, flow.Stream(h.job), flow.Subjects(h.job), flow.MaxQueued, flow.Stages(), flow.Subject); err != nil {
		return err
	}
	if apart := work.Inlines(); len(apart) > 0 {
		if err := h.makeQueue(ctx, flow.ByteStream(h.job), flow.ByteSubjects(h.job), flow.BytesQueued, apart, flow.ByteSubject); err != nil {
			return err
		}
	}
	_, err := h.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: flow.FactStream(h.job), Subjects: []string{flow.FactSubject(h.job)}, Storage: jetstream.MemoryStorage,
		Retention: jetstream.LimitsPolicy, MaxBytes: 64 << 20, Discard: jetstream.DiscardOld,
	})
	if err != nil {
		return fmt.Errorf("make the live copy's stream: %w", err)
	}
	return nil
}

// makeQueue makes a work queue with a consumer for each of some stages; at most so
// many messages wait for each.
func (h *Hub) makeQueue(ctx context.Context, name, subjects string, limit int64, stages []string, subject func(id.Job, string) string) error {
	q, err := h.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{subjects}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: limit,
	})
	if err != nil {
		return fmt.Errorf("make the work queue: %w", err)
	}
	for _, stage := range stages {
		_, err := q.CreateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: stage, FilterSubject: subject(h.job, stage), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: flow.AckWait, MaxAckPending: flow.MaxAckPending, MaxDeliver: -1, MemoryStorage: true,
		})
		if err != nil {
			return fmt.Errorf("make the queue of %s: %w", stage, err)
		}
	}
	return nil
}

// Listen delivers what workers say of themselves, and what the indexer says of
// the job in its own form. What does not decode is passed over: it is from a
// worker that was killed in mid-sentence, and there will be another.
func (h *Hub) Listen(status func(flow.Status), progress func([]byte)) error {
	_, err := h.nc.Subscribe(flow.StatusSubjects(h.job), func(m *nats.Msg) {
		var s flow.Status
		if events.Unmarshal(m.Data, &s) == nil {
			status(s)
		}
	})
	if err != nil {
		return fmt.Errorf("listen to workers: %w", err)
	}
	if _, err := h.nc.Subscribe(flow.ProgressSubject(h.job), func(m *nats.Msg) { progress(m.Data) }); err != nil {
		return fmt.Errorf("listen to the indexer: %w", err)
	}
	if err := h.nc.Flush(); err != nil {
		return fmt.Errorf("listen to workers: %w", err)
	}
	return nil
}

// Live is the live copy of the job's facts.
func (h *Hub) Live() live.Copy {
	return live.Copy{JS: h.js, Stream: flow.FactStream(h.job), Subject: flow.FactSubject(h.job)}
}

// Depths counts the messages that wait or are being worked on, per stage. Where
// the server does not answer the counts are missing.
func (h *Hub) Depths(ctx context.Context) map[string]uint64 {
	n, _ := flow.Depths(ctx, h.js, h.job, h.work)
	return n
}

// Held counts the messages of a stage that are with its workers, and those among
// them that were delivered before.
func (h *Hub) Held(ctx context.Context, stage string) (held, again int, err error) {
	c, err := h.js.Consumer(ctx, h.stream(stage), stage)
	if err != nil {
		return 0, 0, fmt.Errorf("look at the queue of %s: %w", stage, err)
	}
	info := c.CachedInfo()
	return info.NumAckPending, info.NumRedelivered, nil
}

// stream is where the messages of a stage wait.
func (h *Hub) stream(stage string) string {
	if h.work.Inline(stage) {
		return flow.ByteStream(h.job)
	}
	return flow.Stream(h.job)
}
