package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/host"
	"github.com/millrace-backup/millrace/hypervisor/qemu/note"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk/filelock"
)

// order is what the guard is told.
type order struct {
	Do    string        `json:"do"`
	Limit time.Duration `json:"limit,omitempty"` // of held
}

// What the guard may be told to do.
const (
	held   = "held"   // the guest stands still from now on: not longer than Limit
	free   = "free"   // it goes on
	rescue = "rescue" // see that it goes on: we could not
	over   = "over"   // nothing of the job is left: leave
)

// guardJob is the first thing that a guard is told.
type guardJob struct {
	Path   string   `json:"path"`
	Vault  id.Vault `json:"vault"`
	Job    id.Job   `json:"job"`
	Folder string   `json:"folder"`
	State  string   `json:"state"`
	Lock   string   `json:"lock"`
}

// guard is a guard process, from the side of who started it. nil is one that is not
// there.
type guard struct {
	in  io.WriteCloser
	cmd *exec.Cmd
}

// startGuard starts the guard of a freeze. It leaves when its pipe closes and nothing is
// left to do.
func (d *Driver) startGuard() (*guard, error) {
	if len(d.o.Guard) == 0 {
		return nil, nil
	}
	cmd := exec.Command(d.o.Guard[0], d.o.Guard[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	host.Detach(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g := &guard{in: in, cmd: cmd}
	go func() { _ = cmd.Wait() }() // how it ends is its own affair
	b, err := json.Marshal(guardJob{Path: d.path, Vault: d.o.Vault, Job: d.o.Job, Folder: d.o.Folder, State: d.o.State, Lock: d.o.Lock})
	if err == nil {
		_, err = in.Write(append(b, '\n'))
	}
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return g, nil
}

// say tells the guard something. A guard that is gone hears nothing, and is missed only
// if we are killed too.
func (g *guard) say(o order) {
	if g == nil {
		return
	}
	if b, err := json.Marshal(o); err == nil {
		_, _ = g.in.Write(append(b, '\n'))
	}
}

// leave hangs up: what is still to be done the guard does by itself.
func (g *guard) leave() {
	if g != nil {
		_ = g.in.Close()
	}
}

const (
	rescueEvery = time.Second
	rescueFor   = 10 * time.Minute
	lockEvery   = 300 * time.Millisecond
	lingering   = 20 * lockEvery // of a guard whose job is dead, at most
)

// Guard is the whole life of a guard process: it is told by in what a freeze does to a
// guest, and undoes it when who does it dies or takes too long. When the job itself is
// dead, which is when nobody holds its lock, it takes everything out of QEMU that the
// job has left there. A process that takes too long is killed: it holds the socket.
func Guard(ctx context.Context, in io.Reader) error {
	dec := json.NewDecoder(io.LimitReader(in, 1<<20))
	var j guardJob
	if err := dec.Decode(&j); err != nil {
		return fmt.Errorf("be told what to guard: %w", err)
	}
	d := New(j.Path, Options{Vault: j.Vault, Job: j.Job, Folder: j.Folder, State: j.State})
	absent := host.Present(d.tag())
	defer absent()
	starter := os.Getppid()
	orders := make(chan order)
	go func() {
		defer close(orders)
		var o order
		for ; dec.Decode(&o) == nil; o = (order{}) {
			orders <- o
		}
	}()
	if d.obey(ctx, orders, func() { host.Kill(starter) }) {
		absent()
		return d.thawLater(ctx) // an agent that hung when the job ended may have frozen the guest
	}
	for o := range orders { // told of or not, nothing more is asked of us
		_ = o
	}
	go func() {
		// From when the job is dead on, others may back the guest up: they find what is left
		// of it. An agent that hangs may keep us for minutes.
		for ; j.Lock != "" && locked(j.Lock); time.Sleep(lockEvery) {
			continue
		}
		absent()
	}()
	if err := d.letGo(ctx); err != nil {
		return err
	}
	return d.clear(ctx, j.Lock)
}

// obey does what it is told until it is told that all is over (true), or nobody tells
// it anything more.
func (d *Driver) obey(ctx context.Context, orders <-chan order, kill func()) bool {
	limit := time.NewTimer(time.Hour)
	limit.Stop()
	for {
		select {
		case o, ok := <-orders:
			switch {
			case !ok:
				return false
			case o.Do == over:
				return true
			case o.Do == held:
				limit.Reset(o.Limit)
			case o.Do == free:
				limit.Stop()
			case o.Do == rescue:
				limit.Stop()
				go func() { _ = d.thawLater(ctx) }()
			}
		case <-limit.C:
			kill() // who was to let the guest go on cannot, and has the socket
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// thawLater thaws a guest whose freeze hangs, when it ends to hang.
func (d *Driver) thawLater(ctx context.Context) error {
	return d.until(ctx, func() error {
		n, err := note.Last(d.notePath())
		if err != nil || n.Agent == "" {
			return nil // done, by us or somebody else
		}
		if err := d.rescueThaw(ctx, n); err != nil {
			return err
		}
		return errors.New("the agent does not answer yet")
	})
}

// letGo sees that the guest goes on, if the note says that it may not.
func (d *Driver) letGo(ctx context.Context) error {
	return d.until(ctx, func() error {
		n, err := note.Last(d.notePath())
		if err != nil || !n.Paused && n.Agent == "" {
			return err
		}
		m, err := d.connect(ctx)
		if err != nil {
			return host.UnlessGone(err)
		}
		defer m.Close()
		if n.Process != d.processNow() {
			return nil // it is of a QEMU that has ended
		}
		if err := d.rescue(ctx, m); err != nil {
			return err
		}
		if n, err := d.noted(); err != nil || n.Agent != "" {
			return errors.Join(err, errors.New("the agent does not answer yet"))
		}
		return nil
	})
}

// clear waits until the job is dead, and takes out of QEMU what it has left.
func (d *Driver) clear(ctx context.Context, lock string) error {
	for lock != "" && locked(lock) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockEvery):
		}
	}
	return d.until(ctx, func() error {
		m, err := d.connect(ctx)
		if err != nil {
			return host.UnlessGone(err)
		}
		defer m.Close()
		return errors.Join(d.removeJob(ctx, m, d.tag(), nil), d.forget())
	})
}

// until tries something again and again until it succeeds, for a while.
func (d *Driver) until(ctx context.Context, try func() error) error {
	end := time.Now().Add(rescueFor)
	for {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(rescueEvery):
		}
	}
}

// locked reports whether somebody holds the lock of the file.
func locked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	ok, err := filelock.Try(f, 0)
	return err == nil && !ok
}
