package rundirect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/launch"
)

// strike is something that is done to a run.
type strike struct {
	name      string
	fills     bool // the state folder is small
	serveOnly bool
	do        func(context.Context, *course) error
}

// strikes are all there are; trials take them in turn, in each phase.
func strikes() []strike {
	killing := func(words ...string) func(context.Context, *course) error {
		return func(_ context.Context, c *course) error {
			for _, word := range words {
				if word == "move" {
					if c.move != nil {
						_ = c.move.Kill()
					}
					continue
				}
				for _, pid := range c.processes(word) {
					kill(pid)
					c.note("killed %s", word)
				}
			}
			return nil
		}
	}
	return []strike{
		{name: "kill the stage", do: killing("rundirect")},
		{name: "kill the supervisor", do: killing("supervise")},
		{name: "kill the stage and the supervisor", do: killing("supervise", "rundirect")},
		{name: "kill QEMU", do: killing("qemu-system")},
		{name: "kill all", do: killing("move", "supervise", "qemu-system", "rundirect")},
		{name: "kill the move", do: killing("move")},
		{name: "kill the move and the supervisor", do: killing("move", "supervise")},
		{name: "kill the move and the stage", do: killing("move", "rundirect")},
		{name: "stop the stage for a while", do: stopStage},
		{name: "take the vault away", do: vaultAway},
		{name: "fill the overlay's disk", fills: true, serveOnly: true, do: fill},
	}
}

func kill(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) }

// processes are those of the run that have a word in their command line.
func (c *course) processes(word string) (pids []int) {
	if c.run.Run == "" {
		return nil
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		cwd, err := os.Readlink(filepath.Join(p, "cwd"))
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if err == nil && (strings.HasPrefix(cwd, c.folder()) || bytes.Contains(line, []byte(c.run.Run))) && bytes.Contains(line, []byte(word)) {
			pid, _ := strconv.Atoi(filepath.Base(p))
			pids = append(pids, pid)
		}
	}
	return pids
}

func stopStage(_ context.Context, c *course) error {
	for _, pid := range c.processes("rundirect") {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return nil // it has just left
		}
		time.Sleep(time.Duration(500+c.rng.IntN(4000)) * time.Millisecond)
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	return nil
}

// vaultAway renames the vault's folder: what is open stays so, what is opened is not there. The
// guest drops what it has in memory, so that it has to read.
func vaultAway(_ context.Context, c *course) error {
	away := c.place.Vault + ".away"
	if err := os.Rename(c.place.Vault, away); err != nil {
		return err
	}
	_ = c.guest.say("(echo 3 > /proc/sys/vm/drop_caches; cat /srv/mixed > /dev/null; echo READ) &")
	long := time.Duration(500+c.rng.IntN(5000)) * time.Millisecond
	if c.rng.IntN(5) == 0 {
		long = 30 * time.Second
	}
	time.Sleep(long)
	c.note("away for %s", long)
	if err := os.Rename(away, c.place.Vault); err != nil {
		return err
	}
	return c.guest.until("READ", 2*patience)
}

// fill leaves the overlay no room, until the guest is paused; then makes room and lets it go on.
func fill(ctx context.Context, c *course) error {
	big := filepath.Join(c.place.State, "big")
	f, err := os.Create(big)
	if err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Write(b)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(err, f.Close())
	}
	_ = f.Close()
	g := launch.Find(c.folder())
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		status, err := g.Status(ctx)
		if err == nil && status == "io-error" {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the guest is %s, %w, on a full disk", status, err)
		}
	}
	c.note("paused")
	if err := os.Remove(big); err != nil {
		return err
	}
	return g.Continue(ctx)
}
