// Package outpost runs workers for jobs whose conductors are on other machines: the
// millrace worker command.
//
// [Serve] listens on a NATS server for jobs of one vault that let out stages it
// serves (see flow/muster), joins each, and runs workers for it until it is over.
// The workers are processes like those of a conductor, with an arena of their own,
// of which only what they are filling counts: bytes come and go in messages.
//
// Guarantees. No key of the vault travels: the outpost has opened the vault itself,
// and hands each worker the keys of its stage. When a worker here dies, what it held
// is delivered to another after a second, here or elsewhere, and its successor is
// started. When all of the machine dies, the same. When the conductor dies, its
// offers end, and the workers are ended some seconds later.
package outpost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/millrace-backup/millrace/conductor/crew"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/flow/muster"
	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// Options are what Serve needs to know.
type Options struct {
	Vault    *vault.Vault
	Location string // of the vault as this machine sees it
	NATS     courier.Dial
	Command  []string // what to start for a stage; its name is appended
	State    string   // folder
	Stages   []string // to serve
	Parallel map[string]int
	Host     string
	Version  string
	Log      *zap.Logger
	// Note tells the user what happens. From several goroutines.
	Note func(format string, args ...any)
}

// patience is how long a server that is away is waited for.
const patience = 10 * time.Minute

// outpost is what Serve knows.
type outpost struct {
	*Options
	call muster.Call

	mu    sync.Mutex
	heard map[id.Job]time.Time
	jobs  map[id.Job]context.CancelFunc // that are joined, or were
	work  sync.WaitGroup
}

// Serve takes part in jobs until ctx ends. The error says why the server cannot be
// used.
func Serve(ctx context.Context, o Options) error {
	for _, s := range o.Stages {
		if !slices.Contains(flow.Remotable(), s) {
			return fmt.Errorf("serve %s: it runs beside the conductor; elsewhere can run %v", s, flow.Remotable())
		}
	}
	d := o.NATS
	d.Name, d.Patience = "millrace worker on "+o.Host, patience
	nc, err := courier.Connect(d)
	if err != nil {
		return err
	}
	defer nc.Close()
	p := &outpost{
		Options: &o, call: muster.Call{Conn: nc, Vault: o.Vault.ID, Keys: o.Vault.Keys},
		heard: map[id.Job]time.Time{}, jobs: map[id.Job]context.CancelFunc{},
	}
	watching, stop := context.WithCancel(ctx)
	defer p.work.Wait()
	defer stop()
	p.work.Go(func() { p.watch(watching) })
	err = p.call.Listen(ctx, func(f muster.Offer) { p.offered(watching, f) })
	if nc.IsClosed() && ctx.Err() == nil {
		return fmt.Errorf("the NATS server at %s was away for %v", o.NATS.URL, patience)
	}
	return err
}

// offered joins a job that is new, and leaves one that is over.
func (p *outpost) offered(ctx context.Context, o muster.Offer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	leave, known := p.jobs[o.Job]
	p.heard[o.Job] = time.Now()
	switch {
	case known && o.Over:
		leave()
	case known || o.Over || !slices.ContainsFunc(p.Stages, func(s string) bool { return slices.Contains(o.Stages, s) }):
	default:
		working, leave := context.WithCancel(ctx)
		p.jobs[o.Job] = leave
		p.work.Go(func() {
			if err := p.serve(working, o.Job); err != nil && working.Err() == nil {
				p.Note("job %s: %v", id.Short(o.Job), err)
				p.Log.Warn("serve job", zap.Stringer("job", o.Job), zap.Error(err))
				if !errors.Is(err, muster.ErrRefused) {
					p.forget(o.Job) // the next offer is another try
				}
			}
			leave()
		})
	}
}

func (p *outpost) forget(j id.Job) { p.mu.Lock(); defer p.mu.Unlock(); delete(p.jobs, j) }

// watch leaves jobs that have not been heard of for long.
func (p *outpost) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		for j, at := range p.heard {
			if leave := p.jobs[j]; leave != nil && time.Since(at) > muster.Silence && p.call.Conn.IsConnected() {
				leave()
			}
		}
		p.mu.Unlock()
	}
}

// serve takes part in one job until ctx ends or it cannot go on.
func (p *outpost) serve(ctx context.Context, job id.Job) error {
	t, err := p.call.Join(ctx, job, muster.Request{Host: p.Host, PID: os.Getpid(), Stages: p.Stages, Version: p.Version})
	if err != nil {
		return err
	}
	if t.Work.VaultID != p.Vault.ID {
		return fmt.Errorf("join job %s: it is of vault %s", job, t.Work.VaultID)
	}
	t.Work.Vault = p.Location
	folder := filepath.Join(p.State, "worker", job.String())
	if err := os.MkdirAll(filepath.Join(folder, "log"), 0o700); err != nil {
		return fmt.Errorf("make a folder for the job: %w", err)
	}
	raw, sealed := int(t.Work.ParcelSize), arena.SealedSize(int(t.Work.ParcelSize))
	memory, err := arena.New(arena.Shape{
		RawSize: raw, SealedSize: sealed, RawSlots: max(1, 4*p.Parallel[flow.Reader]), SealedSlots: max(1, 4*p.Parallel[flow.Seal]),
	})
	if err != nil {
		return err
	}
	defer memory.Close()
	defer func() { // the limits are of this machine, for as long as it serves the job
		for _, stage := range p.Stages {
			_ = os.Remove(pace.Path(folder, stage))
		}
	}()
	failed := make(chan *flow.Fault, 1)
	c := &crew.Crew{
		Command: p.Command, Folder: folder, Log: p.Log.With(zap.Stringer("job", job)), Arena: memory, Keys: p.Vault.Keys, Host: p.Host,
		Settings: flow.Config{Job: job, Work: t.Work, Host: p.Host, Dial: p.NATS}, First: t.First,
		Queue: door{p.NATS, t.Key}, Depths: func(context.Context) map[string]uint64 { return nil },
		Note: func(events.Fact) {}, // the conductor notes what it hears of us
		Stop: func(f *flow.Fault) {
			select {
			case failed <- f:
			default:
			}
		},
		Started: func(stage string, n uint32, pid int) {
			p.Note("job %s: %s (worker %d, pid %d)", id.Short(job), stage, n, pid)
		},
	}
	for _, stage := range p.Stages {
		for range p.Parallel[stage] {
			if !slices.Contains(t.Work.Remote, stage) {
				continue
			}
			if err := c.Start(stage); err != nil {
				c.Dismiss()
				return err
			}
		}
	}
	defer c.Dismiss()
	select {
	case <-ctx.Done():
		p.Note("job %s: over", id.Short(job))
		return nil
	case f := <-failed:
		return f
	}
}

// door lets workers into a server where all have the same credential.
type door struct {
	dial courier.Dial
	key  courier.Secret
}

func (d door) Admit(c *flow.Config) {
	c.Dial = d.dial
	c.Dial.Key, c.Dial.Patience = d.key, time.Minute
}

func (door) Dismiss(string, uint32) {}
