package launch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// Home is where a disk of a running guest is to go: a raw file of the disk's size.
type Home struct {
	Disk int // its number among Spec.Disks
	Path string
}

func (h Home) node() string { return fmt.Sprintf("millrace-home-%d", h.Disk) }
func (h Home) job() string  { return fmt.Sprintf("millrace-move-%d", h.Disk) }
func (h Home) from() string { return fmt.Sprintf("millrace-run-%d", h.Disk) }

// Steps are what the caller of Switch does while the guest stands still.
type Steps struct {
	// Settle makes the files have what the disks have, durably.
	Settle func(context.Context) error
	// Commit makes durable that they are the guest's disks from now on; or takes that back,
	// when QEMU would not change to them.
	Commit func(home bool) error
}

// errMidway says that a guest is left standing still between its old disks and its new ones.
var errMidway = errors.New("the guest stands still until the switch of its disks is ended")

// Switch makes a running guest use other disks, which have the same when Settle returns. It
// returns how long the guest stood still. If anything fails before Commit, the guest goes on
// with the disks it had. Of a switch whose process dies, [Guest.Mend] makes the end.
func (g *Guest) Switch(ctx context.Context, homes []Home, s Steps) (paused time.Duration, err error) {
	err = g.ask(ctx, func(c *qmp.Client) (err error) {
		m := mover{c, homes}
		begun := time.Now()
		var was struct{ Running bool }
		if err := m.Do(ctx, "query-status", nil, &was); err != nil {
			return err
		}
		// What the guest has under way ends, and is flushed, before stop returns.
		if err := m.Do(ctx, "stop", nil, nil); err != nil {
			return err
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = m.change(ctx, late, s)
		if errors.Is(err, errMidway) {
			return err
		}
		if err != nil {
			err = errors.Join(err, m.giveUp(late))
		}
		if was.Running {
			err = errors.Join(err, m.Do(late, "cont", nil, nil))
		}
		paused = time.Since(begun)
		return err
	})
	if err != nil {
		err = fmt.Errorf("switch the guest's disks: %w", err)
	}
	return paused, err
}

// Mend makes the end of a switch whose process died while the guest stood still: to the files if
// that was written down, else back. Then the guest goes on, if it is to. It may be called again.
func (g *Guest) Mend(ctx context.Context, homes []Home, home, cont bool) error {
	err := g.ask(ctx, func(c *qmp.Client) error {
		m := mover{c, homes}
		var err error
		if home {
			if err = m.attach(ctx); err == nil {
				err = m.complete(ctx)
			}
		} else {
			err = m.giveUp(ctx)
		}
		if err != nil || !cont {
			return err
		}
		return m.Do(ctx, "cont", nil, nil)
	})
	if err != nil {
		return fmt.Errorf("end the switch of the guest's disks: %w", err)
	}
	return nil
}

type mover struct {
	*qmp.Client
	homes []Home
}

// job is what QEMU says of one.
type job struct {
	ID     string
	Status string
	Error  string // why it failed
}

func (m mover) jobs(ctx context.Context) (map[string]job, error) {
	var all []job
	err := m.Do(ctx, "query-jobs", nil, &all)
	out := map[string]job{}
	for _, j := range all {
		out[j.ID] = j
	}
	return out, err
}

// nodes are the names of all there are.
func (m mover) nodes(ctx context.Context) (map[string]bool, error) {
	var all []struct {
		Name string `json:"node-name"`
	}
	err := m.Do(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &all)
	out := map[string]bool{}
	for _, n := range all {
		out[n.Name] = true
	}
	return out, err
}

// change does what is done while the guest stands still.
func (m mover) change(ctx, late context.Context, s Steps) error {
	if err := s.Settle(ctx); err != nil {
		return err
	}
	if err := m.attach(ctx); err != nil {
		return err
	}
	back := func(err error) error {
		if e := s.Commit(false); e != nil { // which of them counts is known to who reads it again
			return errors.Join(err, e, errMidway)
		}
		return err
	}
	if err := s.Commit(true); err != nil {
		return back(err)
	}
	// From here on nobody turns back who was interrupted: a disk that is changed QEMU does not
	// change back, and all are to be in one place.
	if err := m.complete(late); err != nil {
		there, askErr := m.nodes(late)
		for _, h := range m.homes {
			if askErr != nil || !there[h.from()] {
				return errors.Join(err, errMidway) // some are changed: the files count
			}
		}
		return back(err)
	}
	return nil
}

// attach begins for each disk a mirror that has nothing to copy, as both places have the same, and
// returns when QEMU could change over. What is there of it already stays; disks that are
// changed are left alone.
func (m mover) attach(ctx context.Context) error {
	there, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	for _, h := range m.homes {
		if _, ok := there[h.job()]; ok || !nodes[h.from()] {
			continue
		}
		if !nodes[h.node()] {
			args := map[string]any{"driver": "raw", "node-name": h.node(), "discard": "unmap", "file": map[string]any{"driver": "file", "filename": h.Path, "discard": "unmap", "aio": "threads"}}
			if err := m.Do(ctx, "blockdev-add", args, nil); err != nil {
				return err
			}
		}
		args := map[string]any{"job-id": h.job(), "device": h.from(), "target": h.node(), "sync": "none", "copy-mode": "write-blocking",
			"on-source-error": "report", "on-target-error": "report", "auto-dismiss": false}
		if err := m.Do(ctx, "blockdev-mirror", args, nil); err != nil {
			return err
		}
	}
	return m.await(ctx, func(j job) bool { return j.Status == "ready" || j.Status == "concluded" })
}

// await waits until all jobs that there are are as they are to be.
func (m mover) await(ctx context.Context, right func(job) bool) error {
	for {
		there, err := m.jobs(ctx)
		if err != nil {
			return err
		}
		waits := false
		for _, h := range m.homes {
			j, ok := there[h.job()]
			if !ok {
				continue
			}
			if j.Error != "" {
				return fmt.Errorf("disk %d: %s", h.Disk, j.Error)
			}
			waits = waits || !right(j)
		}
		if !waits {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// complete makes the guest use the files.
func (m mover) complete(ctx context.Context) error {
	there, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	for _, h := range m.homes {
		if there[h.job()].Status != "ready" {
			continue
		}
		if err := m.Do(ctx, "job-complete", map[string]any{"id": h.job()}, nil); err != nil {
			return err
		}
	}
	if err := m.await(ctx, func(j job) bool { return j.Status == "concluded" }); err != nil {
		return err
	}
	for _, h := range m.homes {
		// These fail only for what is gone; and what is left of it costs a connection.
		_ = m.Do(ctx, "job-dismiss", map[string]any{"id": h.job()}, nil)
		_ = m.Do(ctx, "blockdev-del", map[string]any{"node-name": h.from()}, nil)
	}
	return nil
}

// giveUp ends the mirrors and forgets the files. A disk that has been changed already is not
// changed back: QEMU knows no way.
func (m mover) giveUp(ctx context.Context) error {
	there, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	for _, h := range m.homes {
		j, ok := there[h.job()]
		if ok && j.Status != "concluded" {
			err = errors.Join(err, m.Do(ctx, "job-cancel", map[string]any{"id": h.job()}, nil))
		}
		for ok && j.Status != "concluded" && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
			if there, err := m.jobs(ctx); err == nil {
				j, ok = there[h.job()]
			}
		}
		if ok {
			err = errors.Join(err, m.Do(ctx, "job-dismiss", map[string]any{"id": h.job()}, nil))
		}
		_ = m.Do(ctx, "blockdev-del", map[string]any{"node-name": h.node()}, nil) // refused if a disk uses it
	}
	return err
}
