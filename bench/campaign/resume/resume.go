// Package resume measures what a killed backup costs: not the work, which is done
// again, but the room in the vault.
//
// The disk has 2 GiB of bytes that nothing can compress and of which no two chunks
// are equal. One job backs it up undisturbed; what it leaves in packs/ is the
// *clean* size. In each trial a job is killed (all of its processes, kill -9) at a
// quarter, half or three quarters of the disk, as its own status lines tell, and
// the command is given again until the job ends: on the same machine, or with an
// empty state folder, as on another machine after the first has burnt. One trial
// kills three jobs in a row.
//
// A trial passes if packs/ then holds at most the clean size and ten packs (of
// 32 MiB) for each kill, verify --read-data finds nothing, and the restored disk
// is equal.
//
// The job that was killed also leaves an unfinished upload in tmp/, which is no
// object of the vault; it is swept after a day and told in the note.
package resume

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/workload"
)

const (
	mib       = 1 << 20
	packSize  = 32 * mib
	allowance = 10 * packSize // for each kill
)

// plans are the trials: where jobs are killed, and whether the next has the state
// folder of the one before.
func plans() []plan {
	return []plan{
		{[]float64{0.25}, true}, {[]float64{0.5}, true}, {[]float64{0.75}, true},
		{[]float64{0.25}, false}, {[]float64{0.5}, false}, {[]float64{0.75}, false},
		{[]float64{0.25, 0.5, 0.75}, true},
	}
}

type plan struct {
	at   []float64 // shares of the disk
	same bool      // state folder
}

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "resume", Count: len(plans()),
		About: "Each trial kills a backup of 2 GiB of incompressible data at 25, 50 or 75 % (one: at all three, job after job) and gives the command again, with the same\n" +
			"state folder or an empty one. It passes if the packs of all jobs together are at most those of one undisturbed job and ten packs for each kill,\n" +
			"`verify --read-data` finds nothing, and the restored disk is equal.",
		Open: func(ctx context.Context, e trial.Env) (trial.Bench, error) { return open(ctx, e, 2<<30) },
	}
}

type bench struct {
	trial.Env
	image string
	size  int64
	clean int64 // bytes in packs/ after one undisturbed job
}

func open(ctx context.Context, e trial.Env, size int64) (*bench, error) {
	b := &bench{Env: e, image: filepath.Join(e.Dir, "disk.raw"), size: size}
	if err := workload.Random(b.image, size, e.Seed); err != nil {
		return nil, err
	}
	p, err := rig.New(ctx, e.Program, filepath.Join(e.Dir, "clean"), e.Now)
	if err != nil {
		return nil, err
	}
	if _, err := p.Must(ctx, "backup", b.image); err != nil {
		return nil, err
	}
	if b.clean, err = rig.Bytes(filepath.Join(p.Vault, "packs")); err != nil {
		return nil, err
	}
	e.Log("one undisturbed job of %d MiB stores %d bytes in packs", size/mib, b.clean)
	return b, os.RemoveAll(p.Dir)
}

func (b *bench) Close() error { return nil }

// Trial implements trial.Bench.
func (b *bench) Trial(ctx context.Context, n int, _ *rand.Rand) (out trial.Outcome, err error) {
	plan := plans()[n%len(plans())]
	folder := filepath.Join(b.Dir, fmt.Sprintf("trial-%d", n))
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	p, err := rig.New(ctx, b.Program, folder, b.Now)
	if err != nil {
		return out, err
	}
	state := "same state folder"
	if !plan.same {
		state = "empty state folder"
	}
	out.Kinds = []string{fmt.Sprintf("killed at %v", plan.at), state}
	for k, share := range plan.at {
		at, err := b.killed(ctx, p, share)
		if err != nil {
			return out, fmt.Errorf("job %d: %w", k, err)
		}
		out.Note += fmt.Sprintf("killed at %d MiB; ", at/mib)
		if !plan.same {
			p = p.With(p.Vault, p.Path(fmt.Sprintf("state-%d", k)))
		}
	}
	end, err := p.Must(ctx, "backup", b.image)
	if err != nil {
		return out, err
	}
	stored, err := rig.Bytes(filepath.Join(p.Vault, "packs"))
	unfinished, _ := rig.Bytes(filepath.Join(p.Vault, "tmp"))
	out.Note += fmt.Sprintf("found %d MiB again; packs %+.1f MiB against %.1f MiB clean; unfinished uploads %.1f MiB",
		end.Summary().Known/mib, float64(stored-b.clean)/mib, float64(b.clean)/mib, float64(unfinished)/mib)
	if err == nil && stored > b.clean+int64(len(plan.at))*allowance {
		err = fmt.Errorf("all jobs together stored %d bytes, one undisturbed %d", stored, b.clean)
	}
	return out, errors.Join(err, b.whole(ctx, p))
}

// killed runs a job and kills all of it when so much of the disk is done. It
// returns how much was.
func (b *bench) killed(ctx context.Context, p *rig.Place, share float64) (int64, error) {
	var once sync.Once
	var at int64
	due := make(chan struct{})
	job, err := p.Start(ctx, func(l rig.Line) {
		if l.Type == "status" && float64(l.Done) >= share*float64(b.size) {
			once.Do(func() { at = l.Done; close(due) })
		}
	}, "backup", b.image)
	if err != nil {
		return 0, err
	}
	select {
	case <-due:
		if process, err := os.FindProcess(job.PID()); err == nil {
			_ = process.Signal(syscall.SIGKILL) // its workers leave with it
		}
	case <-job.Over():
	}
	end, err := job.Wait()
	if err == nil && end.Exit == 0 {
		err = errors.New("it was over before it could be killed: make the disk larger")
	} else if err == nil && end.Exit != -1 {
		err = end.Err("backup")
	}
	return at, err
}

// whole wants one point, whole and equal.
func (b *bench) whole(ctx context.Context, p *rig.Place) error {
	if _, err := p.Must(ctx, "verify", "--read-data"); err != nil {
		return err
	}
	return p.Same(ctx, "latest", b.image)
}
