// Package kills ends processes of a running backup at moments nobody chose, and
// sees whether anything is lost.
//
// A trial backs a disk up with the real program, into a vault of its own, and
// meanwhile does one of these, at a moment drawn from the whole life of such a job,
// its start and its commit included. The moment is drawn as something that the job
// has come to (so many workers run, so much of the disk is read, so many bytes lie in
// packs, so many objects of the commit are there) and a few milliseconds, and not as
// a time, so that it comes whatever else the machine does:
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
// Every fourth job has the smallest arena there is, through which everything goes.
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
// Only blows drawn for the last moments of a job can be.
// Linux only.
package kills

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/workload"
)

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "kills", Count: 330,
		About: "Each trial is a backup with the real program, of which one worker, several, all, or the conductor are killed (or stopped for a while) at a random\n" +
			"moment between its start and its end. It passes if the job, or the next one after it, ends well, the restored disk is equal, `verify --read-data` finds\n" +
			"nothing, no process, slot or file is left over, and no fact is there twice.",
		Open: func(ctx context.Context, e trial.Env) (trial.Bench, error) { return open(ctx, e, 48, 80, 128) },
	}
}

// bench holds the images that all trials back up.
type bench struct {
	trial.Env
	images []string
	// courses of undisturbed jobs, by image: of one that has no point yet, and of one
	// that has.
	first, again map[string]course
}

const mib = 1 << 20

func open(ctx context.Context, e trial.Env, sizes ...int64) (*bench, error) {
	b := &bench{Env: e, first: map[string]course{}, again: map[string]course{}}
	for n, size := range sizes {
		image := filepath.Join(e.Dir, fmt.Sprintf("image-%d.raw", n))
		if err := rig.Mixed(image, size*mib, e.Seed+uint64(n)); err != nil {
			return nil, err
		}
		b.images = append(b.images, image)
		if err := b.undisturbed(ctx, image); err != nil {
			return nil, fmt.Errorf("a job that is left alone: %w", err)
		}
		e.Log("%d MiB: a job of %+v; once more %+v", size, b.first[image], b.again[image])
	}
	return b, nil
}

// undisturbed sees what jobs do that are left alone: the first of a disk, and one
// after a change.
func (b *bench) undisturbed(ctx context.Context, image string) (err error) {
	p, err := rig.New(ctx, b.Program, filepath.Join(b.Dir, "undisturbed"), b.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.Dir)) }()
	if b.first[image], err = watched(ctx, p, image); err != nil {
		return err
	}
	r := &run{place: p, rng: rand.New(rand.NewPCG(b.Seed, 0)), image: image}
	if err := r.earlier(ctx); err != nil {
		return err
	}
	b.again[image], err = watched(ctx, p, r.image)
	return err
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
	r := &run{place: p, rng: rng, image: b.images[rng.IntN(len(b.images))], now: b.Now, blow: blow}
	r.course = b.first[r.image]
	increment := n/len(blows())%3 == 2
	if increment {
		out.Kinds = append(out.Kinds, "increment")
		r.course = b.again[r.image]
		if err := r.earlier(ctx); err != nil {
			return out, fmt.Errorf("the point before: %w", err)
		}
	}
	if rng.IntN(4) == 0 {
		out.Kinds, r.flags = append(out.Kinds, "tiny arena"), []string{"--memory", "16MiB"}
	}
	r.mark = draw(rng, increment, blow != "conductor" && blow != "group" && blow != "orphan", r.course)
	out.Kinds = append(out.Kinds, r.mark.kind)
	err = r.job(ctx)
	out.Note = r.note
	if r.late {
		out.Kinds[0] = "too late"
	}
	return out, err
}

// earlier makes a point of a copy of the disk and changes the copy.
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
