package conductor

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// queue is the job's NATS server with its streams. It keeps nothing on disk that
// matters: the streams are in memory, and losing them loses the job's time.
type queue struct {
	job    id.Job
	server *server.Server
	users  *users
	nc     *nats.Conn
	js     jetstream.JetStream
}

// users is who may connect. Workers come and go while the server runs.
type users struct {
	mu    sync.Mutex
	known map[string]user
}

type user struct {
	password string
	rights   *server.Permissions // nil: all
}

// Check implements server.Authentication.
func (u *users) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	u.mu.Lock()
	known, ok := u.known[o.Username]
	u.mu.Unlock()
	if !ok || subtle.ConstantTimeCompare([]byte(known.password), []byte(o.Password)) != 1 {
		return false
	}
	c.RegisterUser(&server.User{Username: o.Username, Permissions: known.rights})
	return true
}

func (u *users) add(name string, rights *server.Permissions) (password string) {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	password = hex.EncodeToString(b[:])
	u.mu.Lock()
	defer u.mu.Unlock()
	u.known[name] = user{password, rights}
	return password
}

func (u *users) remove(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.known, name)
}

// startQueue starts a server on a free port of the loopback address and makes
// the job's streams, so that workers find them when they come.
func startQueue(ctx context.Context, job id.Job, folder string) (*queue, error) {
	q := &queue{job: job, users: &users{known: map[string]user{}}}
	s, err := server.NewServer(&server.Options{
		ServerName: "millrace-" + job.String(), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: folder, JetStreamMaxMemory: 512 << 20, JetStreamMaxStore: 1 << 20,
		MaxPayload: flow.MaxMessage + 64<<10, MaxPending: 64 << 20, CustomClientAuthentication: q.users,
		DisableShortFirstPing: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make a NATS server: %w", err)
	}
	q.server = s
	s.Start()
	for since := time.Now(); s.Addr() == nil || !s.JetStreamEnabled(); {
		if time.Since(since) > 10*time.Second || ctx.Err() != nil {
			s.Shutdown()
			return nil, errors.New("start NATS server: it does not listen after 10 s")
		}
		time.Sleep(time.Millisecond)
	}
	q.nc, err = nats.Connect("", nats.InProcessServer(s), nats.UserInfo("conductor", q.users.add("conductor", nil)), nats.Name("conductor"))
	if err == nil {
		q.js, err = jetstream.New(q.nc)
	}
	if err == nil {
		err = q.makeStreams(ctx)
	}
	if err != nil {
		q.close()
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	return q, nil
}

func (q *queue) makeStreams(ctx context.Context) error {
	work, err := q.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: flow.Stream(q.job), Subjects: []string{flow.Subjects(q.job)}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: flow.MaxQueued,
	})
	if err != nil {
		return fmt.Errorf("make the work queue: %w", err)
	}
	for _, stage := range flow.Stages() {
		_, err := work.CreateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: stage, FilterSubject: flow.Subject(q.job, stage), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: flow.AckWait, MaxAckPending: flow.MaxAckPending, MaxDeliver: -1, MemoryStorage: true,
		})
		if err != nil {
			return fmt.Errorf("make the queue of %s: %w", stage, err)
		}
	}
	_, err = q.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: flow.FactStream(q.job), Subjects: []string{flow.FactSubject(q.job)}, Storage: jetstream.MemoryStorage,
		Retention: jetstream.LimitsPolicy, MaxBytes: 64 << 20, Discard: jetstream.DiscardOld,
	})
	if err != nil {
		return fmt.Errorf("make the live copy's stream: %w", err)
	}
	return nil
}

func (q *queue) url() string { return "nats://" + q.server.Addr().String() }

// admit makes a credential for one worker.
func (q *queue) admit(stage string, worker uint32) (name, password string) {
	a := flow.Permissions(q.job, stage, worker)
	name = fmt.Sprintf("%s-%d", stage, worker)
	return name, q.users.add(name, &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: a.Publish},
		Subscribe: &server.SubjectPermission{Allow: a.Subscribe},
	})
}

// depths counts the messages that wait or are being worked on, per stage.
func (q *queue) depths(ctx context.Context) map[string]uint64 {
	out := map[string]uint64{}
	s, err := q.js.Stream(ctx, flow.Stream(q.job))
	if err != nil {
		return out
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(flow.Subjects(q.job)))
	if err != nil {
		return out
	}
	for _, stage := range flow.Stages() {
		out[stage] = info.State.Subjects[flow.Subject(q.job, stage)]
	}
	return out
}

func (q *queue) close() {
	if q.nc != nil {
		q.nc.Close()
	}
	q.server.Shutdown()
}
