package lease

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/store"
)

// Folder is where heartbeats lie.
const Folder = "leases/"

// Times are the rhythm of heartbeats. Those of all jobs of a vault should be the
// same; zero values mean the defaults.
type Times struct {
	Beat    time.Duration // from one heartbeat to the next: 5 s
	Look    time.Duration // from one look at another job's to the next: 1 s
	Silence time.Duration // without a new one before the job counts as dead: 30 s
}

// Or fills in the defaults.
func (t Times) Or() Times {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&t.Beat, 5 * time.Second}, {&t.Look, time.Second}, {&t.Silence, 30 * time.Second}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return t
}

// Name is the object name of a heartbeat.
func Name(job id.Job, n uint64) string { return fmt.Sprintf("%s%s/%020d", Folder, job, n) }

// Parse takes a heartbeat's name apart.
func Parse(name string) (job id.Job, n uint64, ok bool) {
	folder, digits, found := strings.Cut(strings.TrimPrefix(name, Folder), "/")
	if !found || len(digits) != 20 || job.UnmarshalText([]byte(folder)) != nil {
		return id.Job{}, 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n == 0 || Name(job, n) != name {
		return id.Job{}, 0, false
	}
	return job, n, true
}

// Newest returns the number of a job's newest heartbeat, 0 if it has none.
func Newest(ctx context.Context, st store.Store, job id.Job) (newest uint64, err error) {
	for e, err := range st.List(ctx, Folder+job.String()+"/") {
		if err != nil {
			return 0, fmt.Errorf("look for heartbeats of job %s: %w", job, err)
		}
		if _, n, ok := Parse(e.Name); ok {
			newest = max(newest, n)
		}
	}
	return newest, nil
}

// Holder writes the heartbeats of a job.
type Holder struct {
	st   store.Store
	job  id.Job
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	last uint64
	err  error
}

// Hold writes the first heartbeat and returns when it is durable; more follow
// until End.
func Hold(ctx context.Context, st store.Store, job id.Job, t Times) (*Holder, error) {
	t = t.Or()
	h := &Holder{st: st, job: job, done: make(chan struct{})}
	if err := h.beat(ctx, t); err != nil {
		return nil, err
	}
	// The job ends when its conductor says so; until then its claim stands.
	ctx, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	go h.run(ctx, t)
	return h, nil
}

func (h *Holder) run(ctx context.Context, t Times) {
	defer close(h.done)
	tick := time.NewTicker(t.Beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := h.beat(ctx, t)
		if ctx.Err() != nil {
			return
		}
		h.mu.Lock()
		h.err = err
		h.mu.Unlock()
	}
}

// beat writes the next heartbeat and removes the one before. A put that failed
// may have happened: then the name is taken, by us, and has served.
func (h *Holder) beat(ctx context.Context, t Times) error {
	ctx, cancel := context.WithTimeout(ctx, t.Silence)
	defer cancel()
	h.mu.Lock()
	n := h.last + 1
	h.mu.Unlock()
	name := Name(h.job, n)
	if err := h.st.PutNew(ctx, name, int64(len(name)), strings.NewReader(name)); err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("write heartbeat %s: %w", name, err)
	}
	h.mu.Lock()
	h.last = n
	h.mu.Unlock()
	if n > 1 {
		// A crash before this leaves two, of which the higher counts.
		_ = h.st.Delete(ctx, Name(h.job, n-1))
	}
	return nil
}

// Last returns the number of the newest heartbeat, and why the next could not be
// written, if it could not. That is no reason to stop: the ledger says who may
// go on.
func (h *Holder) Last() (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last, h.err
}

// End stops the heartbeats and removes them. Call it when the ledger says that
// the job is over.
func (h *Holder) End(ctx context.Context) {
	h.stop()
	<-h.done
	_ = Remove(ctx, h.st, h.job)
}

// Remove deletes a job's heartbeats.
func Remove(ctx context.Context, st store.Store, job id.Job) error {
	return remove(ctx, st, Folder+job.String()+"/", func(id.Job) bool { return true })
}

// Sweep deletes the heartbeats of jobs that are over.
func Sweep(ctx context.Context, st store.Store, over func(id.Job) bool) error {
	return remove(ctx, st, Folder, over)
}

func remove(ctx context.Context, st store.Store, prefix string, which func(id.Job) bool) error {
	var names []string
	for e, err := range st.List(ctx, prefix) {
		if err != nil {
			return fmt.Errorf("list heartbeats: %w", err)
		}
		if job, _, ok := Parse(e.Name); ok && which(job) {
			names = append(names, e.Name)
		}
	}
	var errs []error
	for _, name := range names {
		if err := st.Delete(ctx, name); err != nil && !errors.Is(err, store.ErrNotFound) {
			errs = append(errs, err)
			if errors.Is(err, store.ErrReadOnly) {
				break // nor may the others be deleted
			}
		}
	}
	return errors.Join(errs...)
}
