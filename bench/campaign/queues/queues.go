// Package queues takes from jobs the queues that their parcels wait in, or spoils
// them: what NATS JetStream holds is deleted, corrupted and set back while a backup
// runs.
//
// A trial copies a vault that has one point of a guest, changes a fifth of the disk, and
// starts a backup whose messages go through a nats-server of the campaign, or through
// the job's own; half of those that can send their bytes in the messages. At a moment drawn from
// the life of such a job one thing is done to the queues, sometimes two: see [strikes].
// Half of the time one process of the job is stopped shortly before, so that the queues
// are not empty.
//
// # What passes
//
// Nothing in a queue is the only copy of anything, so the job has to end well, by
// itself, within two minutes. The point restores equal to the disk, as does the point
// before; each fact that can be true only once is told once, no nonce is used twice; verify --read-data and
// audit verify end with 0. The next backup, with no queue but its own, does, too. Where
// the queues themselves were gone, the job's log says that they were made again.
package queues

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/workload"
)

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "queues", Count: 240,
		About: "A trial backs a disk up through NATS JetStream and, while the job runs, deletes, corrupts or sets back what JetStream holds: streams, consumers, messages,\n" +
			"the server's memory, its files. It passes if the job ends well by itself within two minutes, all points restore equal, nothing is told twice, and `verify\n" +
			"--read-data` and `audit verify` find nothing. States are blows that hit a running job.",
		Open: func(ctx context.Context, e trial.Env) (trial.Bench, error) { return open(ctx, e, 96) },
	}
}

const mib = 1 << 20

// bench is what trials begin with.
type bench struct {
	trial.Env
	server string // the nats-server binary
	place  *rig.Place
	// lasts is how long a job lasts from its first word on, with bytes in its messages and without.
	lasts map[bool]time.Duration
}

// open makes a vault with one point of a disk of size MiB.
func open(ctx context.Context, e trial.Env, size int64) (*bench, error) {
	b := &bench{Env: e, server: filepath.Join(e.Dir, "nats-server"), lasts: map[bool]time.Duration{}}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", b.server, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build nats-server from its module: %w\n%s", err, out)
	}
	var err error
	if b.place, err = rig.New(ctx, b.Program, filepath.Join(e.Dir, "base"), b.Now); err != nil {
		return nil, err
	}
	if err := rig.Mixed(b.place.Path("disk.raw"), size*mib, e.Seed); err != nil {
		return nil, err
	}
	start := b.Now()
	if _, err := b.place.Must(ctx, "backup", b.place.Path("disk.raw")); err != nil {
		return nil, err
	}
	b.lasts[false], b.lasts[true] = b.Now().Sub(start)/4, b.Now().Sub(start)/4 // to begin with
	return b, nil
}

func (b *bench) Close() error { return nil }

// course is one trial.
type course struct {
	*bench
	place  *rig.Place
	rng    *rand.Rand
	site   *site // nil: the job has a server of its own
	inline bool
	began  time.Time // the job's first word

	kinds []string
	note  string
	hits  int
	// renewed: queues were taken from the running job, which has to say so.
	renewed bool
}

// Trial implements trial.Bench.
func (b *bench) Trial(ctx context.Context, n int, rng *rand.Rand) (out trial.Outcome, err error) {
	folder := filepath.Join(b.Dir, fmt.Sprintf("trial-%d", n))
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	t := &course{bench: b, rng: rng, inline: rng.IntN(2) == 0}
	if err := t.prepare(ctx, folder); err != nil {
		return out, err
	}
	if t.site != nil {
		defer t.site.stop()
	}
	err = t.run(ctx)
	out.Kinds, out.Note, out.Checks = t.kinds, t.note, t.hits
	return out, err
}

// prepare copies the vault, changes the disk and starts a NATS server, if the trial
// is to have one.
func (t *course) prepare(ctx context.Context, folder string) (err error) {
	if t.place, err = t.bench.place.Copy(folder, "disk.raw"); err != nil {
		return err
	}
	if _, err := workload.Scatter(t.place.Path("disk.raw"), 0.2, t.rng.Uint64()); err != nil {
		return err
	}
	if t.rng.IntN(12) == 0 {
		t.inline = false
		return nil
	}
	t.site, err = newSite(ctx, t.server, folder)
	return err
}

// args are those of the backup.
func (t *course) args() []string {
	// In many steps, and all of the disk: a job that reads only what changed is soon over.
	args := []string{"backup", t.place.Path("disk.raw"), "--scan", "full", "--parcel", "4MiB", "--parallel", "seal=1"}
	if t.site != nil {
		args = append(args, t.site.args()...)
	}
	if t.inline {
		args = append(args, "--transport", "inline")
	}
	return args
}

// run is the trial once all is there.
func (t *course) run(ctx context.Context) error {
	minutes, done := context.WithTimeout(ctx, 2*time.Minute)
	defer done()
	jobs := make(chan string, 1)
	told := func(l rig.Line) {
		if l.Job != "" {
			select {
			case jobs <- l.Job:
			default:
			}
		}
	}
	p, err := t.place.Start(minutes, told, t.args()...)
	if err != nil {
		return err
	}
	if err := t.strike(minutes, p, jobs); err != nil {
		return errors.Join(err, p.Kill())
	}
	end, err := p.Wait()
	if err == nil && minutes.Err() != nil && ctx.Err() == nil {
		err = errors.New("HANGS: the job has not ended after two minutes")
	}
	if err == nil && end.Exit != 0 {
		err = end.Err("backup")
	}
	if err != nil {
		return err
	}
	if t.hits == 0 && !t.began.IsZero() {
		t.lasts[t.inline] = t.Now().Sub(t.began)
	}
	return t.judge(ctx, end)
}
