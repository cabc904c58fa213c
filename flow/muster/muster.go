// Package muster brings pools of workers on other machines together with jobs that
// want them, over a NATS server that both can reach.
//
// A conductor calls [Call.Hold] for as long as its job runs: once a second it offers
// the job, and it answers those who want to join. A pool calls [Call.Listen] to hear
// of offers and [Call.Join] to take one up; the answer, [Terms], is all that a
// worker needs but for the vault's keys, which a pool has from the vault itself.
//
// Guarantees. Everything said is sealed with the metadata key of the vault and
// bound to its subject: only who can open the vault can read an offer, make one, or
// join, and no key of the vault ever travels. An offer that is replayed leads to a
// conductor that does not answer. Workers' numbers are given out by the conductor,
// in blocks, so that no two workers of a job have the same.
package muster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/nats-io/nats.go"
)

// Every is how often a job is offered. One that has not been heard of for
// Silence is over, or its conductor is dead.
const (
	Every   = time.Second
	Silence = 15 * time.Second
)

// Sealer is the vault's keys. *vault.Keys is one.
type Sealer interface {
	SealMeta(dst []byte, t vault.ObjectType, name, plain []byte) ([]byte, error)
	OpenMeta(dst []byte, t vault.ObjectType, name, sealed []byte) ([]byte, error)
}

// Call is one end of the conversation.
type Call struct {
	Conn  *nats.Conn
	Vault id.Vault
	Keys  Sealer
}

// Offer says that a job runs.
type Offer struct {
	Job    id.Job   `json:"job"`
	Stages []string `json:"stages"`         // that other machines may serve
	Over   bool     `json:"over,omitempty"` // it has ended
}

// Request is who wants to join.
type Request struct {
	Host    string   `json:"host"`
	PID     int      `json:"pid"`
	Stages  []string `json:"stages"`
	Version string   `json:"version"` // of the program: messages are of one version
}

// Terms is what a pool gets.
type Terms struct {
	Work    flow.Work `json:"work"`
	Key     []byte    `json:"key"`               // of the job's messages, see courier.Cover
	First   uint32    `json:"first"`             // its workers' numbers begin above this one
	Refused string    `json:"refused,omitempty"` // why it is not wanted
}

// Numbers of workers elsewhere: the conductor's own are lower.
const (
	FirstBlock = 1 << 20
	Block      = 1 << 12
)

func offers(v id.Vault) string { return "o." + v.String() }

func joins(job id.Job) string { return "i." + job.String() }

// Hold offers a job until ctx ends, and answers those who want to join. It returns
// once the end of the job has been said.
func (c Call) Hold(ctx context.Context, o Offer, admit func(Request) Terms) error {
	sub, err := c.Conn.Subscribe(joins(o.Job), func(m *nats.Msg) {
		var r Request
		if c.read(m.Subject, m.Data, &r) != nil {
			return // not from one of ours
		}
		if b, err := c.write(m.Subject, admit(r)); err == nil {
			_ = m.Respond(b) // who does not get it asks again
		}
	})
	if err != nil {
		return fmt.Errorf("listen to pools of workers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		o.Over = ctx.Err() != nil
		b, err := c.write(offers(c.Vault), o)
		if err != nil {
			return err
		}
		_ = c.Conn.Publish(offers(c.Vault), b) // the next one is a second away
		if o.Over {
			return c.Conn.FlushTimeout(time.Second)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// Listen calls heard for every offer of a job of the vault, until ctx ends.
func (c Call) Listen(ctx context.Context, heard func(Offer)) error {
	sub, err := c.Conn.Subscribe(offers(c.Vault), func(m *nats.Msg) {
		var o Offer
		if c.read(m.Subject, m.Data, &o) == nil {
			heard(o)
		}
	})
	if err != nil {
		return fmt.Errorf("listen to jobs: %w", err)
	}
	<-ctx.Done()
	return sub.Unsubscribe()
}

// ErrRefused: the conductor does not want this pool, and says why.
var ErrRefused = errors.New("the job does not take this pool")

// Join asks a job's conductor to be let in.
func (c Call) Join(ctx context.Context, job id.Job, r Request) (t Terms, err error) {
	b, err := c.write(joins(job), r)
	if err != nil {
		return Terms{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m, err := c.Conn.RequestWithContext(ctx, joins(job), b)
	if err != nil {
		return Terms{}, fmt.Errorf("join job %s: %w", job, err)
	}
	if err := c.read(joins(job), m.Data, &t); err != nil {
		return Terms{}, fmt.Errorf("join job %s: %w", job, err)
	}
	if t.Refused != "" {
		return Terms{}, fmt.Errorf("join job %s: %w: %s", job, ErrRefused, t.Refused)
	}
	if t.First < FirstBlock || len(t.Key) != courier.KeySize {
		return Terms{}, fmt.Errorf("join job %s: terms that make no sense", job)
	}
	return t, nil
}

func (c Call) write(subject string, v any) ([]byte, error) {
	b, err := events.Marshal(v)
	if err != nil {
		return nil, err
	}
	return c.Keys.SealMeta(nil, vault.TypeCall, []byte(subject), b)
}

func (c Call) read(subject string, b []byte, v any) error {
	plain, err := c.Keys.OpenMeta(nil, vault.TypeCall, []byte(subject), b)
	if err != nil {
		return err
	}
	return events.Unmarshal(plain, v)
}
