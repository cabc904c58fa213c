// Package queue is where a job's messages wait: a NATS server in the conductor's own
// process, for one job, on a free port of the loopback address.
//
// [Start] returns once the job's streams are there, so that workers find them when
// they come. [Queue.Admit] gives each worker a credential that allows the subjects
// of its own stage and no others, and [Queue.Dismiss] takes it back; every local
// user can reach the port, so nobody gets in without one. Queue.Hub is the
// conductor's own end.
//
// [Reach] uses a server that is elsewhere instead: an operator's NATS server or cluster.
// There all workers have the operator's credential, and every message is covered
// with a key of the job. [Queue.Watch] sees to it that the queues are made again
// when that server was started anew.
//
// Nothing on disk matters: the streams are in memory, and losing them loses the
// job's time.
package queue

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
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/flow/hub"
	"github.com/millrace-backup/millrace/id"
	"github.com/nats-io/nats-server/v2/server"
)

// Queue is a job's NATS server with its streams.
type Queue struct {
	Hub *hub.Hub

	job    id.Job
	server *server.Server // in this process; nil: see Reach
	users  *users
	dial   courier.Dial // how workers reach a server that is elsewhere
	copies int          // of the streams there
}

// users is who may connect. Workers come and go while the server runs.
type users struct {
	mu    sync.Mutex
	known map[string]login
}

type login struct {
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
	u.known[name] = login{password, rights}
	return password
}

func (u *users) remove(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.known, name)
}

// Start starts a server on a free port of the loopback address and makes the
// job's streams, so that workers find them when they come.
func Start(ctx context.Context, job id.Job, work *flow.Work, folder string) (*Queue, error) {
	q := &Queue{job: job, users: &users{known: map[string]login{}}}
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
	q.Hub, err = hub.Join(courier.Dial{
		User: "conductor", Password: courier.Secret(q.users.add("conductor", nil)), Name: "conductor",
	}, s, job, nil)
	if err == nil {
		err = q.Hub.MakeQueues(ctx, work, 1)
	}
	if err != nil {
		q.Close()
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	return q, nil
}

// Admit enters into a worker's settings how it reaches its queue: a credential of
// its own, with the rights of its stage.
func (q *Queue) Admit(c *flow.Config) {
	if q.server == nil {
		c.Dial = q.dial
		return
	}
	a := hub.Permissions(q.job, &c.Work, c.Stage, c.Worker)
	c.Dial.URL = "nats://" + q.server.Addr().String()
	c.Dial.User = user(c.Stage, c.Worker)
	c.Dial.Password = courier.Secret(q.users.add(c.Dial.User, &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: a.Publish},
		Subscribe: &server.SubjectPermission{Allow: a.Subscribe},
	}))
}

// Dismiss takes back a worker's credential.
func (q *Queue) Dismiss(stage string, worker uint32) {
	if q.server != nil {
		q.users.remove(user(stage, worker))
	}
}

func user(stage string, worker uint32) string { return fmt.Sprintf("%s-%d", stage, worker) }

// Close ends the server, and with it the streams; from one that is elsewhere it
// removes them. What cannot be removed the vault's next job there removes.
func (q *Queue) Close() {
	if q.server == nil {
		q.leave()
		return
	}
	if q.Hub != nil {
		q.Hub.Close()
	}
	q.server.Shutdown()
}
