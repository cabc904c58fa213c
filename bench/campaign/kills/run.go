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
)

// run is one trial.
type run struct {
	place  *rig.Place
	rng    *rand.Rand
	now    func() time.Time
	image  string
	points int // that there were before
	blow   string
	flags  []string // of the job
	mark   mark
	course course // of such a job, undisturbed

	note string
	late bool
}

func blows() []string {
	return []string{"worker", "conductor", "workers", "zombie", "group", "all", "orphan"}
}

// fatal reports that the blow ends the job.
func (r *run) fatal() bool { return r.blow == "conductor" || r.blow == "group" || r.blow == "orphan" }

// job backs up, strikes, and sees what came of it.
func (r *run) job(ctx context.Context) error {
	before := look(r.place, 0)
	job, err := r.place.Start(ctx, nil, append([]string{"backup", r.image}, r.flags...)...)
	if err != nil {
		return err
	}
	struck := make(chan strike, 1)
	go func() { struck <- r.strike(ctx, job, before) }()
	end, err := job.Wait()
	s := <-struck
	defer s.release()
	r.note = fmt.Sprintf("%s: %s", r.mark, s.what)
	if err := errors.Join(err, s.err); err != nil {
		return err
	}
	if !s.hit {
		r.late = true
	}
	if r.fatal() && s.hit {
		return r.successor(ctx, job.PID(), s)
	}
	if end.Exit != 0 || end.Summary().Outcome != "done" {
		return end.Err("backup")
	}
	return errors.Join(r.whole(ctx, r.points+1), r.tidy(job.PID()))
}

// successor is what happens after the job was ended.
func (r *run) successor(ctx context.Context, group int, s strike) error {
	if err := rig.Gone(ctx, group, s.stopped); err != nil {
		return err
	}
	points, err := r.listed(ctx)
	if err != nil {
		return fmt.Errorf("the vault after the blow: %w", err)
	}
	if points != r.points && points != r.points+1 {
		return fmt.Errorf("%d points are listed, there were %d and a job", points, r.points)
	}
	if points > r.points {
		r.note += "; its point was committed"
	}
	next, err := r.place.Start(ctx, nil, "backup", r.image)
	if err != nil {
		return err
	}
	if s.stopped != 0 { // it wakes in the middle of another job's work
		time.Sleep(time.Duration(r.rng.IntN(500)) * time.Millisecond)
		s.release()
	}
	end, err := next.Wait()
	if err != nil {
		return err
	}
	if end.Exit != 0 || end.Summary().Outcome != "done" {
		return fmt.Errorf("the next job: %w", end.Err("backup"))
	}
	sum := end.Summary()
	r.note += fmt.Sprintf("; the next job found %d MiB", (sum.Known+sum.Same)/mib)
	return errors.Join(r.whole(ctx, points+1), rig.Gone(ctx, group, 0), r.tidy(next.PID()))
}

// listed counts the points that a machine without memory sees.
func (r *run) listed(ctx context.Context) (int, error) {
	o, err := rig.Open(ctx, r.place.Vault, rig.Password, r.now)
	if err != nil {
		return 0, err
	}
	return len(o.State.Listed()), nil
}

// whole wants so many points, all of them whole, the newest equal to the disk,
// and a ledger that tells everything once.
func (r *run) whole(ctx context.Context, points int) error {
	if n, err := r.listed(ctx); err != nil || n != points {
		return fmt.Errorf("%d points are listed, want %d: %w", n, points, err)
	}
	if _, err := r.place.Must(ctx, "verify", "--read-data"); err != nil {
		return err
	}
	err := r.place.Same(ctx, "latest", r.image)
	o, opened := rig.Open(ctx, r.place.Vault, rig.Password, r.now)
	if err = errors.Join(err, opened); err == nil {
		err = errors.Join(o.Once(ctx), o.Nonces(ctx))
	}
	return err
}

// tidy wants nothing left over: no process, no slot, nothing but logs and the
// mark of a death in the folders of jobs that are over.
func (r *run) tidy(group int) error {
	var wrong []error
	if left := rig.Members(group); len(left) > 0 {
		wrong = append(wrong, fmt.Errorf("processes %v outlive their job", left))
	}
	folders, err := filepath.Glob(filepath.Join(r.place.State, "jobs", "*"))
	wrong = append(wrong, err)
	for _, f := range folders {
		entries, err := os.ReadDir(f)
		wrong = append(wrong, err)
		for _, e := range entries {
			if name := e.Name(); name != "log" && name != "alive" { // the mark of a dead one stays
				wrong = append(wrong, fmt.Errorf("%s is left of job %s", e.Name(), filepath.Base(f)))
			}
		}
		text, err := os.ReadFile(filepath.Join(f, "log", "conductor.log"))
		if err == nil && strings.Contains(string(text), "slots left in use") {
			wrong = append(wrong, errors.New("slots of the arena are left in use"))
		}
	}
	return errors.Join(wrong...)
}
