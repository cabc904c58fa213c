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
	"github.com/millrace-backup/millrace/flow/hub"
	"github.com/millrace-backup/millrace/id"
	"github.com/nats-io/nats-server/v2/server"
)

// queue is the job's NATS server with its streams. It keeps nothing on disk that
// matters: the streams are in memory, and losing them loses the job's time.
type queue struct {
	job    id.Job
	server *server.Server
	users  *users
	hub    *hub.Hub
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
	q.hub, err = hub.Join(s, job, "conductor", q.users.add("conductor", nil))
	if err == nil {
		err = q.hub.MakeQueues(ctx)
	}
	if err != nil {
		q.close()
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	return q, nil
}

func (q *queue) url() string { return "nats://" + q.server.Addr().String() }

// admit makes a credential for one worker.
func (q *queue) admit(stage string, worker uint32) (name, password string) {
	a := hub.Permissions(q.job, stage, worker)
	name = fmt.Sprintf("%s-%d", stage, worker)
	return name, q.users.add(name, &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: a.Publish},
		Subscribe: &server.SubjectPermission{Allow: a.Subscribe},
	})
}

func (q *queue) close() {
	if q.hub != nil {
		q.hub.Close()
	}
	q.server.Shutdown()
}
