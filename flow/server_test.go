//go:build linux

package flow_test

import (
	"bufio"
	"crypto/subtle"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/flow/hub"
	"github.com/millrace-backup/millrace/id"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"
)

// job is a job without a conductor: a server with the settings that conductor
// gives its own (package conductor/queue), its queues, an arena, and what workers say.
type job struct {
	t      *testing.T
	id     id.Job
	work   flow.Work
	server *server.Server
	hub    *hub.Hub
	arena  *arena.Arena
	js     jetstream.JetStream // with all rights
	nc     *nats.Conn

	mu       sync.Mutex
	last     uint32
	users    map[string]credential
	statuses map[uint32][]flow.Status
	progress [][]byte
}

type credential struct {
	password string
	rights   *server.Permissions
}

// Check implements server.Authentication.
func (j *job) Check(c server.ClientAuthentication) bool {
	j.mu.Lock()
	known, ok := j.users[c.GetOpts().Username]
	j.mu.Unlock()
	if !ok || subtle.ConstantTimeCompare([]byte(known.password), []byte(c.GetOpts().Password)) != 1 {
		return false
	}
	c.RegisterUser(&server.User{Username: c.GetOpts().Username, Permissions: known.rights})
	return true
}

var shape = arena.Shape{RawSlots: 4, SealedSlots: 4, RawSize: 64 << 10, SealedSize: 128 << 10, RecentEntries: 1024}

func newJob(t *testing.T) *job {
	t.Helper()
	return newJobOf(t, flow.Work{})
}

func newJobOf(t *testing.T, work flow.Work) *job {
	t.Helper()
	j := &job{t: t, id: id.NewJob(), work: work, users: map[string]credential{"conductor": {"all", nil}}, statuses: map[uint32][]flow.Status{}}
	var err error
	j.server, err = server.NewServer(&server.Options{
		ServerName: "millrace-" + j.id.String(), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), JetStreamMaxMemory: 512 << 20, JetStreamMaxStore: 1 << 20,
		MaxPayload: flow.MaxMessage + 64<<10, MaxPending: 64 << 20, CustomClientAuthentication: j, DisableShortFirstPing: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	j.server.Start()
	t.Cleanup(func() { j.server.Shutdown(); j.server.WaitForShutdown() })
	eventually(t, "the server listens", func() bool { return j.server.Addr() != nil && j.server.JetStreamEnabled() })
	if j.hub, err = hub.Join(courier.Dial{User: "conductor", Password: courier.Secret("all")}, j.server, j.id, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.hub.Close)
	if err := j.hub.MakeQueues(t.Context(), &j.work, 1); err != nil {
		t.Fatal(err)
	}
	if err := j.hub.Listen(j.heard, j.progressed); err != nil {
		t.Fatal(err)
	}
	if j.arena, err = arena.New(shape); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.arena.Close() })
	j.nc = j.dial("conductor", "all")
	if j.js, err = jetstream.New(j.nc); err != nil {
		t.Fatal(err)
	}
	return j
}

func (j *job) url() string { return "nats://" + j.server.Addr().String() }

func (j *job) dial(user, password string, o ...nats.Option) *nats.Conn {
	j.t.Helper()
	nc, err := nats.Connect(j.url(), append(o, nats.UserInfo(user, password))...)
	if err != nil {
		j.t.Fatal(err)
	}
	j.t.Cleanup(nc.Close)
	return nc
}

func (j *job) heard(s flow.Status) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.statuses[s.Worker] = append(j.statuses[s.Worker], s)
}

func (j *job) progressed(b []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.progress = append(j.progress, b)
}

// said returns what a worker has said of itself so far.
func (j *job) said(worker uint32) []flow.Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]flow.Status(nil), j.statuses[worker]...)
}

// lastWord is the newest status of a worker, zero before it has spoken.
func (j *job) lastWord(worker uint32) (s flow.Status) {
	if all := j.said(worker); len(all) > 0 {
		s = all[len(all)-1]
	}
	return s
}

// config admits a worker and returns its settings, without the arena.
func (j *job) config(stage string) flow.Config {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	a := hub.Permissions(j.id, &j.work, stage, j.last)
	name := fmt.Sprintf("%s-%d", stage, j.last)
	j.users[name] = credential{"pass-" + name, &server.Permissions{
		Publish: &server.SubjectPermission{Allow: a.Publish}, Subscribe: &server.SubjectPermission{Allow: a.Subscribe},
	}}
	return flow.Config{Job: j.id, Stage: stage, Worker: j.last, Work: j.work, Dial: courier.Dial{URL: j.url(), User: name, Password: courier.Secret("pass-" + name)}}
}

// worker is a worker inside this process, with the conductor's end of its pipe.
type worker struct {
	*flow.Worker
	control *io.PipeWriter
	once    sync.Once
}

// start joins a worker of a stage to the job.
func (j *job) start(stage string) *worker {
	j.t.Helper()
	cfg := j.config(stage)
	cfg.Arena = j.handle()
	r, w := io.Pipe() // never closed: the end of it ends the process
	fw, err := flow.Connect(j.t.Context(), cfg, bufio.NewReader(r))
	if err != nil {
		j.t.Fatal(err)
	}
	x := &worker{Worker: fw, control: w}
	j.t.Cleanup(func() { x.close(j.t) })
	return x
}

// handle is the arena as a worker inherits it.
func (j *job) handle() uint64 {
	j.t.Helper()
	fd, err := unix.Dup(int(j.arena.File().Fd()))
	if err != nil {
		j.t.Fatal(err)
	}
	return uint64(fd)
}

func (w *worker) close(t *testing.T) {
	w.once.Do(func() {
		if err := w.Close(); err != nil && w.Lost() == nil {
			t.Error("leave the flow:", err)
		}
	})
}

func (w *worker) drain(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(w.control, flow.Drain+"\n"); err != nil {
		t.Fatal(err)
	}
}

// next takes a message or fails the test.
func (w *worker) next(t *testing.T) *flow.Delivery {
	t.Helper()
	d, ok := w.TryNext(t.Context(), patience)
	if !ok || d == nil {
		t.Fatalf("no message for %s", w.Config.Stage)
	}
	return d
}

// parcel n without bytes.
func parcel(n int) *flow.Message {
	return &flow.Message{Parcel: &flow.Parcel{Number: uint32(n), Offset: int64(n) << 16, Length: 1 << 16}}
}

// filled is parcel n with bytes, in a slot that owner has filled.
func (j *job) filled(n int, pool arena.Pool, owner uint32) *flow.Message {
	j.t.Helper()
	s, ok := j.arena.TryAcquire(pool, owner)
	if !ok {
		j.t.Fatal("the arena is full")
	}
	m := parcel(n)
	m.Parcel.Claim = s.Claim(copy(j.arena.Bytes(s.Number), fmt.Sprintf("bytes of parcel %d", n)))
	return m
}

// put stores a message in a stage's queue.
func (j *job) put(stage string, m *flow.Message) {
	j.t.Helper()
	b, err := m.Encode()
	if err != nil {
		j.t.Fatal(err)
	}
	subject := address.Subject(j.id, stage)
	if j.work.Inline(stage) {
		subject = address.ByteSubject(j.id, stage)
	}
	if _, err := j.js.Publish(j.t.Context(), subject, b); err != nil {
		j.t.Fatal(err)
	}
}

func (j *job) queued(stage string) uint64 {
	j.t.Helper()
	n, err := flow.Depths(j.t.Context(), j.js, j.id, &j.work)
	if err != nil {
		j.t.Fatal(err)
	}
	return n[stage]
}

const patience = 10 * time.Second

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for since := time.Now(); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Since(since) > patience {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// throughout watches that something stays so for a while that is itself the
// subject of the test: a deadline of the server's, a pause that must be kept.
func throughout(t *testing.T, d time.Duration, what string, is func() bool) {
	t.Helper()
	for since := time.Now(); time.Since(since) < d; time.Sleep(5 * time.Millisecond) {
		if !is() {
			t.Fatalf("after %v not so any more: %s", time.Since(since), what)
		}
	}
}

func (j *job) wantUsage(p arena.Pool, free, filling, full int) {
	j.t.Helper()
	if f, g, h := j.arena.Usage(p); f != free || g != filling || h != full {
		j.t.Fatalf("pool %d: %d free, %d filling, %d full; want %d, %d, %d", p, f, g, h, free, filling, full)
	}
}
