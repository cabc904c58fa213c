package crew

import (
	"errors"
	"fmt"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/millrace-backup/millrace/flow"
)

// ErrEnding: the workers are being sent home, their number cannot be changed.
var ErrEnding = errors.New("the job is ending")

// Scale makes it so that a stage has this many workers on this machine, and returns
// how many it had. More are started at once. Those that are too many, the newest,
// are asked to leave: each finishes what it holds and hands it on, gives back what
// it had not begun, and goes; Scale does not wait for that. None is killed, and one
// that dies on its way out is not replaced.
//
// On an error the stage keeps the workers that could be started.
func (c *Crew) Scale(stage string, to int) (from int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from = c.wanted[stage]
	if c.ending {
		return from, ErrEnding
	}
	c.want(stage, to)
	here := c.present(stage)
	for n := len(here); n > to; n-- {
		c.Log.Info("worker asked to leave", zap.String("stage", stage), zap.Uint32("worker", here[n-1].number))
		here[n-1].leave()
	}
	for n := len(here); n < to; n++ {
		if err := c.start(stage, 0); err != nil {
			c.want(stage, n)
			return from, err
		}
	}
	return from, nil
}

// want enters how many workers a stage is to have. c.mu is held.
func (c *Crew) want(stage string, n int) {
	if c.wanted == nil {
		c.wanted, c.most = map[string]int{}, map[string]int{}
	}
	c.wanted[stage] = n
}

// present lists the workers of a stage that stay, oldest first. One that has died
// counts until it has been waited for. c.mu is held.
func (c *Crew) present(stage string) (out []*worker) {
	for _, w := range c.all {
		w.mu.Lock()
		leaving := w.draining
		w.mu.Unlock()
		select {
		case <-w.gone:
			continue
		default:
		}
		if w.stage == stage && !leaving {
			out = append(out, w)
		}
	}
	return out
}

// replace starts another worker in the place of one that has gone, if the stage
// wants one. how is what its process ended with; expected says that it had been
// asked to leave and did.
func (c *Crew) replace(w *worker, how error, expected bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if expected || c.ending || len(c.present(w.stage)) >= c.wanted[w.stage] {
		return nil
	}
	if n := c.restarts(w.stage); n > maxRestarts {
		return &flow.Fault{
			Class: flow.Halt, Code: "stage-dies", Stage: w.stage, Op: "run stage", Object: w.stage, Cause: fmt.Sprintf("its workers ended %d times, the last with %v", n, how),
			Remedy: "look into the logs under " + filepath.Join(c.Folder, "log"),
		}
	}
	return c.start(w.stage, w.restart+1)
}

// restarts counts the workers of a stage that took another's place. c.mu is held.
func (c *Crew) restarts(stage string) (n int) {
	for _, w := range c.all {
		if w.stage == stage && w.restart > 0 {
			n++
		}
	}
	return n
}

// Wanted is how many workers a stage is to have on this machine.
func (c *Crew) Wanted(stage string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wanted[stage]
}
