package conductor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/conductor/queue"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/muster"
	"github.com/millrace-backup/millrace/id"
	"go.uber.org/zap"
)

// invite does what a job on a server elsewhere needs besides: it offers itself to
// pools of workers, looks after its queues, and sweeps what dead jobs have left.
func (j *job) invite(ctx context.Context, watchers *sync.WaitGroup) {
	call := muster.Call{Conn: j.queue.Hub.Conn(), Vault: j.work.VaultID, Keys: j.o.Vault.Keys}
	watchers.Go(func() {
		offer := muster.Offer{Job: j.id, Stages: j.work.Remote}
		if err := call.Hold(ctx, offer, j.admit); err != nil && ctx.Err() == nil {
			j.log.Warn("offer the job", zap.Error(err))
		}
	})
	watchers.Go(func() { j.queue.Watch(ctx, &j.work, j.care()) })
	watchers.Go(func() { j.sweep(ctx, call) })
}

// care is what becomes of a job whose queues are lost.
func (j *job) care() queue.Care {
	return queue.Care{
		Held: func() (n int) {
			for _, pool := range []arena.Pool{arena.Raw, arena.Sealed} {
				_, _, full := j.arena.Usage(pool)
				n += full
			}
			return n
		},
		Lost: func(why string) {
			freed := j.arena.Abandon()
			j.log.Warn("the NATS server has lost the job's queues; what was in them is read again", zap.String("found", why), zap.Int("freed", freed))
		},
		Mended: func() { j.log.Warn("the NATS server has lost the queue of a stage; it was made again") },
		Gone: func(err error) {
			j.stop(&flow.Fault{
				Class: flow.Halt, Code: "queue-lost", Op: "use NATS server", Object: j.o.NATS.URL, Cause: err.Error(), Err: err,
				Remedy: "start the server or mend the way to it, then run the job again; what was stored is found again",
			})
		},
	}
}

// admit gives a pool of workers what it needs, if it has what the job wants.
func (j *job) admit(r muster.Request) muster.Terms {
	switch {
	case r.Version != j.o.Version:
		return muster.Terms{Refused: "this job is run by version " + j.o.Version + ", the pool is of version " + r.Version}
	case !slices.ContainsFunc(r.Stages, func(s string) bool { return slices.Contains(j.work.Remote, s) }):
		return muster.Terms{Refused: "it serves none of the stages that this job lets out"}
	}
	t := muster.Terms{Work: j.work, Key: j.queue.Key(), First: j.crew.Number()}
	j.log.Info("a pool of workers joins", zap.String("host", r.Host), zap.Int("pid", r.PID), zap.Strings("stages", r.Stages), zap.Uint32("first", t.First))
	return t
}

// sweep removes the streams of dead jobs of this vault: those that nobody offers,
// which a live conductor does every second.
func (j *job) sweep(ctx context.Context, call muster.Call) {
	listening, done := context.WithTimeout(ctx, muster.Silence)
	defer done()
	var mu sync.Mutex
	live := map[id.Job]bool{}
	err := call.Listen(listening, func(o muster.Offer) { mu.Lock(); defer mu.Unlock(); live[o.Job] = true })
	if err != nil || ctx.Err() != nil {
		return // the next job will
	}
	mu.Lock()
	defer mu.Unlock()
	if n, err := j.queue.Hub.Sweep(ctx, live, time.Minute); n > 0 || err != nil {
		j.log.Info("queues of dead jobs removed", zap.Int("streams", n), zap.Error(err))
	}
}
