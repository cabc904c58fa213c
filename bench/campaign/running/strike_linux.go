package running

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
)

// strike is something that is done to a backup.
type strike struct {
	name   string
	fills  bool // the fleecing area is small
	frozen bool // it waits until the guest has been frozen
	before func(*course)
	// do says what it has done.
	do func(*course, *rig.Process) (string, error)
}

func nothing(*course) {}

// strikes are all there are; trials take them in turn.
func strikes() []strike {
	stage := func(name string, sig syscall.Signal) func(*course, *rig.Process) (string, error) {
		return func(c *course, _ *rig.Process) (string, error) { return c.signal(sig, "stage", name) }
	}
	cut := func(refuse bool) func(*course) {
		return func(c *course) { c.proxy.Cut(1+c.rng.IntN(70), c.rng.IntN(2) == 0, refuse) }
	}
	heal := func(c *course, p *rig.Process) (string, error) {
		<-p.Over()
		did := "never reached"
		if c.proxy.Over() {
			did = "cut at " + c.proxy.Last()
		}
		c.proxy.Cut(0, false, false)
		return did, nil
	}
	return []strike{
		{name: "kill the snapshot stage", before: nothing, do: stage("snapshot", syscall.SIGKILL)},
		{name: "kill the conductor", before: nothing, do: func(_ *course, p *rig.Process) (string, error) {
			return fmt.Sprint("killed ", p.PID()), ignoreGone(syscall.Kill(p.PID(), syscall.SIGKILL))
		}},
		{name: "cut the QMP socket", before: cut(false), do: heal},
		{name: "kill QEMU", before: nothing, do: func(c *course, _ *rig.Process) (string, error) {
			c.proxy.Close()
			c.vm.Kill()
			c.vm, c.proxy = nil, nil
			return "killed", nil
		}},
		{name: "fill the fleecing area", fills: true, frozen: true, before: nothing, do: func(c *course, _ *rig.Process) (string, error) {
			for n := range 16 {
				if err := c.vm.IO("b", fmt.Sprintf("write -q -P 7 %dM 1M", 3*n)); err != nil {
					return "", err
				}
			}
			return "filled", nil
		}},
		{name: "kill a reader", before: nothing, do: stage("reader", syscall.SIGKILL)},
		{name: "kill all of the job, its guard too", before: nothing, do: func(c *course, p *rig.Process) (string, error) {
			c.guarded = false
			said, err := c.signal(syscall.SIGKILL, "guard")
			return "guard: " + said, errors.Join(err, p.Kill())
		}},
		{name: "interrupt the job", before: nothing, do: func(_ *course, p *rig.Process) (string, error) {
			return "killed its group", p.Kill()
		}},
		{name: "the QMP socket goes for good", before: cut(true), do: heal},
		{name: "stop the snapshot stage", before: nothing, do: func(c *course, _ *rig.Process) (string, error) {
			said, err := c.signal(syscall.SIGSTOP, "stage", "snapshot")
			time.Sleep(time.Duration(c.rng.IntN(2500)) * time.Millisecond)
			_, cont := c.signal(syscall.SIGCONT, "stage", "snapshot")
			return "stopped " + said, errors.Join(err, cont)
		}},
		{name: "kill the guard", before: nothing, do: func(c *course, _ *rig.Process) (string, error) { return c.signal(syscall.SIGKILL, "guard") }},
		{name: "kill the guard and the snapshot stage", before: nothing, do: func(c *course, _ *rig.Process) (string, error) {
			a, err := c.signal(syscall.SIGKILL, "guard")
			b, err2 := c.signal(syscall.SIGKILL, "stage", "snapshot")
			return a + ", " + b, errors.Join(err, err2)
		}},
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// signal sends a signal to the processes of the trial's program with these arguments. They
// are told from those of other runs by the state folder in their environment or, as workers
// do not have it, by what has started them: a trial runs one job at a time.
func (c *course) signal(sig syscall.Signal, args ...string) (string, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return "", err
	}
	want := []byte(c.place.Program)
	for _, a := range args {
		want = append(append(want, 0), a...)
	}
	want = append(want, 0)
	did := "none was there"
	for _, path := range entries {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(line, want) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return "", err
		}
		if err := ignoreGone(syscall.Kill(pid, sig)); err != nil {
			return "", err
		}
		did = fmt.Sprintf("%v to %d (%v)", sig, pid, args)
	}
	return did, nil
}
