package launch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// Home is where a disk of a running guest is to go: a raw file of the disk's size, all
// zeros.
type Home struct {
	Disk int // its number among Spec.Disks
	Path string
}

func (h Home) node() string { return fmt.Sprintf("millrace-home-%d", h.Disk) }
func (h Home) job() string  { return fmt.Sprintf("millrace-move-%d", h.Disk) }
func (h Home) from() string { return fmt.Sprintf("millrace-run-%d", h.Disk) }

// Steps are what the caller of Move does in between.
type Steps struct {
	// Progress is told how many of how many bytes are at home.
	Progress func(done, all int64)
	// Verify is called while what the guest writes goes to both places, and says whether
	// they are the same.
	Verify func(context.Context) error
	// Commit is called while the guest is paused and both places are the same. It makes durable
	// first the files, then that they are the guest's disks from now on; or takes
	// that back, when QEMU would not change to them.
	Commit func(home bool) error
}

// Move has QEMU copy the disks of a running guest to files, and the guest use those from then on.
// While it copies, all that the guest writes is written to both. It returns how long
// the guest was paused for the switch. If anything fails, the guest goes on with
// the disks it had. A move that was begun by somebody who died goes on where it is.
func (g *Guest) Move(ctx context.Context, homes []Home, s Steps) (paused time.Duration, err error) {
	err = g.ask(ctx, func(c *qmp.Client) error {
		m := mover{c, homes, s}
		err := m.copyAll(ctx)
		if err == nil {
			err = s.Verify(ctx)
		}
		if err == nil {
			paused, err = m.change(ctx)
		}
		if err != nil {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			err = errors.Join(err, m.giveUp(late))
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("move disks of the guest: %w", err)
	}
	return paused, err
}

type mover struct {
	*qmp.Client
	homes []Home
	steps Steps
}

// job is what QEMU says of one.
type job struct {
	ID      string
	Type    string
	Status  string
	Current int64  `json:"current-progress"`
	Total   int64  `json:"total-progress"`
	Error   string // why it failed
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

// copyAll begins what is not under way, and returns when all disks are the same in both places
// and stay so.
func (m mover) copyAll(ctx context.Context) error {
	there, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	for _, h := range m.homes {
		if _, ok := there[h.job()]; ok {
			continue
		}
		args := map[string]any{"driver": "raw", "node-name": h.node(), "discard": "unmap", "file": map[string]any{"driver": "file", "filename": h.Path, "discard": "unmap", "aio": "threads"}}
		if err := m.Do(ctx, "blockdev-add", args, nil); err != nil {
			return err
		}
		args = map[string]any{"job-id": h.job(), "device": h.from(), "target": h.node(), "sync": "full", "copy-mode": "write-blocking",
			"on-source-error": "report", "on-target-error": "report", "auto-dismiss": false}
		if err := m.Do(ctx, "blockdev-mirror", args, nil); err != nil {
			return err
		}
	}
	return m.await(ctx, func(j job) bool { return j.Status == "ready" })
}

// await waits until all jobs are as they are to be.
func (m mover) await(ctx context.Context, right func(job) bool) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		there, err := m.jobs(ctx)
		if err != nil {
			return err
		}
		done, all, waits := int64(0), int64(0), false
		for _, h := range m.homes {
			j, ok := there[h.job()]
			if !ok {
				return fmt.Errorf("the copying of disk %d is gone from QEMU", h.Disk)
			}
			if j.Error != "" {
				return fmt.Errorf("disk %d: %s", h.Disk, j.Error)
			}
			if j.Status == "concluded" && !right(j) {
				return fmt.Errorf("the copying of disk %d was ended by somebody", h.Disk)
			}
			done, all = done+j.Current, all+j.Total
			waits = waits || !right(j)
		}
		m.steps.Progress(done, all)
		if !waits {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// change makes the guest use the files. It is paused from before that is written down until all
// are changed: whatever dies in between, both places have the same.
func (m mover) change(ctx context.Context) (paused time.Duration, err error) {
	begun := time.Now()
	var was struct{ Running bool }
	if err := m.Do(ctx, "query-status", nil, &was); err != nil {
		return 0, err
	}
	if was.Running {
		if err := m.Do(ctx, "stop", nil, nil); err != nil {
			return 0, err
		}
		defer func() {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			if contErr := m.Do(late, "cont", nil, nil); err == nil {
				err = contErr
			}
			paused = time.Since(begun)
		}()
	}
	if err := m.steps.Commit(true); err != nil {
		return 0, err
	}
	for n, h := range m.homes {
		if err := m.Do(ctx, "job-complete", map[string]any{"id": h.job()}, nil); err != nil && n == 0 {
			return 0, errors.Join(err, m.steps.Commit(false))
		} else if err != nil {
			return 0, err
		}
	}
	if err := m.await(ctx, func(j job) bool { return j.Status == "concluded" }); err != nil {
		return 0, err
	}
	for _, h := range m.homes {
		// It fails only for what is gone; and what is left of it costs a connection.
		_ = m.Do(ctx, "job-dismiss", map[string]any{"id": h.job()}, nil)
		_ = m.Do(ctx, "blockdev-del", map[string]any{"node-name": h.from()}, nil)
	}
	return 0, nil
}

// giveUp ends the copying and forgets the files. A disk that has been changed already is not
// changed back: QEMU knows no way; the guest goes on with what is the same in both places.
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
			time.Sleep(5 * time.Millisecond)
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
