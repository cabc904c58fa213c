// Package kills ends processes of a running backup at moments nobody chose, and
// sees whether anything is lost.
//
// A trial backs a disk up with the real program, into a vault of its own, and
// meanwhile does one of these, at a time drawn evenly over the whole life of such
// a job, its start and its commit included:
//
//   - worker: kill -9 to one worker, drawn from those that live.
//   - workers: the same to two to six of them, one after the other.
//   - all: the same to every worker at one instant.
//   - zombie: one worker is stopped for up to three times as long as the queue
//     waits for an answer, and then goes on as if nothing had happened.
//   - conductor: kill -9 to the job's main process.
//   - group: kill -9 to all of them at one instant.
//   - orphan: a worker is stopped, the conductor killed, and the worker goes on
//     while the next job runs.
//
// Every third trial is an increment: it backs up a disk of which there is a point.
//
// # What passes
//
// A job whose workers are hit ends with exit code 0, its disk is equal when
// restored, no slot of the arena is left in use, and each fact that can be true
// only once is in the ledger once. A job whose conductor is killed leaves no
// process within ten seconds and a vault in which every point is whole; the next
// job, in the same state folder, ends with exit code 0 and an equal disk, and
// clears away what the dead one left but its logs. After either, verify
// --read-data ends with 0, and so it does for the earlier point.
//
// A job that ended before the blow is counted as "too late", and held to the same.
// Linux only.
package kills

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/workload"
)

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "kills", Count: 330,
		About: "Each trial is a backup with the real program, of which one worker, several, all, or the conductor are killed (or stopped for a while) at a random\n" +
			"time between its start and its end. It passes if the job, or the next one after it, ends well, the restored disk is equal, `verify --read-data` finds\n" +
			"nothing, no process, slot or file is left over, and no fact is there twice.",
		Open: func(ctx context.Context, e trial.Env) (trial.Bench, error) { return open(ctx, e, 48, 80, 128) },
	}
}

// bench holds the images that all trials back up.
type bench struct {
	trial.Env
	images []string
	took   map[string]time.Duration // of jobs that came to their end, by what they did
}

const mib = 1 << 20

func open(ctx context.Context, e trial.Env, sizes ...int64) (*bench, error) {
	b := &bench{Env: e, took: map[string]time.Duration{}}
	for n, size := range sizes {
		image := filepath.Join(e.Dir, fmt.Sprintf("image-%d.raw", n))
		if err := rig.Mixed(image, size*mib, e.Seed+uint64(n)); err != nil {
			return nil, err
		}
		b.images = append(b.images, image)
		p, err := rig.New(ctx, e.Program, filepath.Join(e.Dir, "first"), e.Now)
		if err != nil {
			return nil, err
		}
		start := e.Now()
		_, err = p.Must(ctx, "backup", image)
		b.took[image] = e.Now().Sub(start)
		if err = errors.Join(err, os.RemoveAll(p.Dir)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bench) Close() error { return nil }

// Trial implements trial.Bench.
func (b *bench) Trial(ctx context.Context, n int, rng *rand.Rand) (out trial.Outcome, err error) {
	folder := filepath.Join(b.Dir, fmt.Sprintf("trial-%d", n))
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	p, err := rig.New(ctx, b.Program, folder, b.Now)
	if err != nil {
		return out, err
	}
	blow := blows()[n%len(blows())]
	out.Kinds = []string{blow}
	r := &run{place: p, rng: rng, image: b.images[rng.IntN(len(b.images))], now: b.Now}
	what := r.image
	if n/len(blows())%3 == 2 {
		out.Kinds = append(out.Kinds, "increment")
		if err := r.earlier(ctx); err != nil {
			return out, fmt.Errorf("the point before: %w", err)
		}
		what += " again"
		if b.took[what] == 0 {
			b.took[what] = b.took[strings.TrimSuffix(what, " again")] / 2
		}
	}
	r.blow, r.after = blow, time.Duration(rng.Float64()*0.95*float64(b.took[what]))
	if err := r.job(ctx); err != nil {
		out.Note = r.note
		return out, err
	}
	out.Note = r.note
	if r.late {
		out.Kinds[0] = "too late"
	}
	if r.lasted > 0 {
		b.took[what] = (b.took[what] + r.lasted) / 2
	}
	return out, nil
}

// earlier makes a point of the disk and changes the disk.
func (r *run) earlier(ctx context.Context) error {
	image := r.place.Path("disk.raw")
	text, err := os.ReadFile(r.image)
	if err == nil {
		err = os.WriteFile(image, text, 0o600)
	}
	if err == nil {
		_, err = r.place.Must(ctx, "backup", image)
	}
	if err == nil {
		_, err = workload.Scatter(image, 0.05, r.rng.Uint64())
	}
	r.image, r.points = image, 1
	return err
}
