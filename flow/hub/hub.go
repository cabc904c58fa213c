package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/live"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Hub is a connection with all rights.
type Hub struct {
	job   id.Job
	nc    *nats.Conn
	js    jetstream.JetStream
	cover courier.Cover
	label map[string]string // of the job's streams

	mu       sync.Mutex
	work     *flow.Work
	replicas int
	made     uint64 // how often the queues were made
}

// Server is one in this process: no socket is needed to reach it.
type Server interface {
	InProcessConn() (net.Conn, error)
}

// Join connects to the server, in this process if one is given, else where d says.
// label is put on the job's streams, where the server is not the job's own.
func Join(d courier.Dial, s Server, job id.Job, label map[string]string) (*Hub, error) {
	cover, err := courier.NewCover(d.Key)
	if err != nil {
		return nil, err
	}
	var more []nats.Option
	if s != nil {
		more = append(more, nats.InProcessServer(s))
	}
	nc, err := courier.Connect(d, more...)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return &Hub{job: job, nc: nc, js: js, cover: cover, label: label, work: &flow.Work{}}, nil
}

// Conn is for what else is said on this connection.
func (h *Hub) Conn() *nats.Conn { return h.nc }

// Gone reports whether the server could not be reached again for longer than the
// patience that Join was given.
func (h *Hub) Gone() bool { return h.nc.IsClosed() }

// Servers counts the servers of the cluster, as far as this end knows.
func (h *Hub) Servers() int { return len(h.nc.Servers()) }

// MaxPayload is the largest message that the server carries, in bytes.
func (h *Hub) MaxPayload() int64 { return h.nc.MaxPayload() }

// Close leaves the server.
func (h *Hub) Close() { h.nc.Close() }

// MakeQueues makes the job's streams and consumers, replicas times if the server is
// a cluster that can, else once. Called again it makes those that are gone.
func (h *Hub) MakeQueues(ctx context.Context, work *flow.Work, replicas int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.work, h.replicas = work, replicas
	h.made++
	if err := h.makeQueue(ctx, address.Stream(h.job), address.Subjects(h.job), flow.MaxQueued, flow.Stages(), address.Subject); err != nil {
		return err
	}
	if apart := work.Inlines(); len(apart) > 0 {
		if err := h.makeQueue(ctx, address.ByteStream(h.job), address.ByteSubjects(h.job), flow.BytesQueued, apart, address.ByteSubject); err != nil {
			return err
		}
	}
	if len(h.label) > 0 {
		return nil // facts are sealed in the vault: no open copy of them where others look
	}
	_, err := h.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: address.FactStream(h.job), Subjects: []string{address.FactSubject(h.job)}, Storage: jetstream.MemoryStorage, Metadata: h.label,
		Retention: jetstream.LimitsPolicy, MaxBytes: 64 << 20, Discard: jetstream.DiscardOld, Replicas: replicas,
	})
	if err != nil {
		return fmt.Errorf("make the live copy's stream: %w", err)
	}
	return nil
}

// makeQueue makes a work queue with a consumer for each of some stages; at most so
// many messages wait for each. A queue that is made again numbers its messages
// far from the old ones: an acknowledgement that comes late must not meet a new one.
func (h *Hub) makeQueue(ctx context.Context, name, subjects string, limit int64, stages []string, subject func(id.Job, string) string) error {
	config := jetstream.StreamConfig{
		Name: name, Subjects: []string{subjects}, Retention: jetstream.WorkQueuePolicy, Metadata: h.label, Replicas: h.replicas,
		Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: limit,
	}
	q, err := h.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if h.made > 1 {
			config.FirstSeq = h.made << 40
		}
		q, err = h.js.CreateStream(ctx, config)
	}
	if err != nil {
		return fmt.Errorf("make the work queue: %w", err)
	}
	for _, stage := range stages {
		_, err := q.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: stage, FilterSubject: subject(h.job, stage), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: flow.AckWait, MaxAckPending: flow.MaxAckPending, MaxDeliver: -1, MemoryStorage: true,
		})
		if err != nil {
			return fmt.Errorf("make the queue of %s: %w", stage, err)
		}
	}
	return nil
}

// Left is what a look at the server found of the job's queues.
type Left struct {
	Streams, Consumers bool   // all are there
	Messages           uint64 // that wait or are being worked on
}

// Look looks which of the job's queues are on the server: one that was started anew
// has lost its memory, and whoever may delete streams may delete these.
func (h *Hub) Look(ctx context.Context) (Left, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := Left{Streams: true, Consumers: true}
	queues := map[string]int{address.Stream(h.job): len(flow.Stages())}
	if apart := h.work.Inlines(); len(apart) > 0 {
		queues[address.ByteStream(h.job)] = len(apart)
	}
	for name, consumers := range queues {
		q, err := h.js.Stream(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			left.Streams = false
		case err != nil:
			return left, err
		default:
			state := q.CachedInfo().State
			left.Messages += state.Msgs
			left.Consumers = left.Consumers && state.Consumers >= consumers
		}
	}
	return left, nil
}

// RemoveQueues removes the job's streams from a server that outlives the job.
func (h *Hub) RemoveQueues(ctx context.Context) error {
	var errs []error
	for _, name := range []string{address.Stream(h.job), address.ByteStream(h.job), address.FactStream(h.job)} {
		if err := h.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			errs = append(errs, fmt.Errorf("remove %s from NATS: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Listen delivers what workers say of themselves, and what the indexer says of
// the job in its own form. What does not decode is passed over: it is from a
// worker that was killed in mid-sentence, and there will be another.
func (h *Hub) Listen(status func(flow.Status), progress func([]byte)) error {
	_, err := h.nc.Subscribe(address.StatusSubjects(h.job), func(m *nats.Msg) {
		var s flow.Status
		if b, err := h.cover.Open(m.Subject, m.Data); err == nil && events.Unmarshal(b, &s) == nil {
			status(s)
		}
	})
	if err != nil {
		return fmt.Errorf("listen to workers: %w", err)
	}
	if _, err := h.nc.Subscribe(address.ProgressSubject(h.job), func(m *nats.Msg) {
		if b, err := h.cover.Open(m.Subject, m.Data); err == nil {
			progress(b)
		}
	}); err != nil {
		return fmt.Errorf("listen to the indexer: %w", err)
	}
	if err := h.nc.Flush(); err != nil {
		return fmt.Errorf("listen to workers: %w", err)
	}
	return nil
}

// Live is the live copy of the job's facts.
func (h *Hub) Live() live.Copy {
	return live.Copy{JS: h.js, Stream: address.FactStream(h.job), Subject: address.FactSubject(h.job)}
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
		return address.ByteStream(h.job)
	}
	return address.Stream(h.job)
}
