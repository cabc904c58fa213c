package kills

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
)

// strike is what was done to a job.
type strike struct {
	hit     bool
	what    string
	stopped int // a worker that waits to be woken
	err     error
}

// release wakes a worker that was stopped.
func (s strike) release() {
	if s.stopped != 0 {
		_ = syscall.Kill(s.stopped, syscall.SIGCONT)
	}
}

// strike waits for its moment and strikes. before is what there was without the job.
func (r *run) strike(ctx context.Context, job *rig.Process, before sight) (s strike) {
	if !r.reached(ctx, job, before) || !pause(ctx, job, r.mark.more) {
		return strike{what: "too late"}
	}
	kill := func(pid int, name string) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			s.hit, s.what = true, s.what+" "+name
		}
	}
	conductor := job.PID()
	switch r.blow {
	case "conductor":
		kill(conductor, "conductor")
	case "group":
		if syscall.Kill(-conductor, syscall.SIGKILL) == nil {
			s.hit, s.what = true, "all processes"
		}
	case "all":
		for _, w := range workers(conductor) {
			kill(w.pid, w.stage)
		}
	case "worker", "workers":
		for range map[string]int{"worker": 1, "workers": 2 + r.rng.IntN(5)}[r.blow] {
			for range 100 { // a job that has just begun has no workers yet
				if all := workers(conductor); len(all) > 0 {
					w := all[r.rng.IntN(len(all))]
					kill(w.pid, w.stage)
					break
				}
				if !pause(ctx, job, 5*time.Millisecond) {
					return s
				}
			}
			if r.blow == "workers" && !pause(ctx, job, time.Duration(r.rng.IntN(300))*time.Millisecond) {
				return s
			}
		}
	case "zombie", "orphan":
		return r.stop(ctx, job)
	}
	return s
}

// stop stops a worker. Of a zombie's it wakes it again; of an orphan it kills the
// conductor.
func (r *run) stop(ctx context.Context, job *rig.Process) strike {
	all := workers(job.PID())
	for range 100 { // a job that has just begun has no workers yet
		if len(all) > 0 || r.blow == "orphan" || !pause(ctx, job, 5*time.Millisecond) {
			break
		}
		all = workers(job.PID())
	}
	if len(all) == 0 {
		if r.blow == "orphan" && syscall.Kill(job.PID(), syscall.SIGKILL) == nil {
			return strike{hit: true, what: "conductor, before there were workers"}
		}
		return strike{what: "no worker to stop"}
	}
	w := all[r.rng.IntN(len(all))]
	s := strike{hit: syscall.Kill(w.pid, syscall.SIGSTOP) == nil, what: w.stage + " stopped", stopped: w.pid}
	if r.blow == "orphan" {
		s.err = syscall.Kill(job.PID(), syscall.SIGKILL)
		if errors.Is(s.err, syscall.ESRCH) {
			s.err = nil
		}
		s.what += ", conductor killed"
		return s
	}
	d := time.Duration(r.rng.IntN(3000)) * time.Millisecond
	pause(ctx, job, d)
	s.release()
	s.what += fmt.Sprintf(" for %s", d)
	return s
}

// pause waits, and reports whether the job still runs.
func pause(ctx context.Context, job *rig.Process, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-job.Over():
	case <-ctx.Done():
	}
	return false
}

// worker is a process that does a stage.
type worker struct {
	pid   int
	stage string
}

// workers lists those of a job by what the kernel knows: its process group.
func workers(group int) (all []worker) {
	for _, pid := range rig.Members(group) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		args := bytes.Split(bytes.TrimRight(line, "\x00"), []byte{0})
		if err == nil && pid != group && len(args) == 3 && string(args[1]) == "stage" {
			all = append(all, worker{pid, string(args[2])})
		}
	}
	return all
}
