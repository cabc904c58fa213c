package crew

import (
	"time"

	"go.uber.org/zap"
)

// Until a worker that says nothing is told of, and until it is killed. A healthy
// one says how it is four times a second, whatever it does.
const (
	Mute = 30 * time.Second
	Dead = 120 * time.Second
)

// Guard looks for workers that say nothing while work waits for them: stopped, or
// stuck in a call that does not return. Of the one worker of a stage that is the
// end of the job, without a word. After Mute it is said, after Dead the worker is
// killed, and replaced once it has been waited for: one that the kernel does not
// let die keeps its slots, and the job waits, but says why. It is to be called a
// few times a second; time in which it was not (this process was stopped, the
// machine slept) is not held against anyone.
func (c *Crew) Guard(now time.Time, queued map[string]uint64) {
	mute, dead := Mute, Dead
	if c.Mute > 0 {
		mute, dead = c.Mute, 4*c.Mute
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	slept := !c.guarded.IsZero() && now.Sub(c.guarded) > mute/2
	c.guarded = now
	for _, w := range c.all {
		select {
		case <-w.gone:
			continue
		default:
		}
		w.mu.Lock()
		if slept || queued[w.stage] == 0 {
			w.heard, w.told = now, false
		}
		silent, told := now.Sub(w.heard), w.told
		w.told = silent > mute
		w.mu.Unlock()
		if silent > dead {
			c.Log.Error("worker killed: it says nothing", zap.String("stage", w.stage), zap.Uint32("worker", w.number), zap.Duration("for", silent))
			_ = w.cmd.Process.Kill() // its watcher does the rest
		} else if silent > mute && !told {
			c.Log.Warn("worker says nothing", zap.String("stage", w.stage), zap.Uint32("worker", w.number), zap.Duration("for", silent))
		}
	}
}
