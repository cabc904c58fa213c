package rundirect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/guest"
)

const (
	diskSize = 160 << 20
	rootAt   = 33 << 20 // of the guest's file system on its disk
	patience = 60 * time.Second
)

// bench has a vault with the point that all trials run from.
type bench struct {
	trial.Env
	place *rig.Place
	point string
}

func open(ctx context.Context, e trial.Env) (trial.Bench, error) {
	for _, tool := range []string{"qemu-system-x86_64", "/sbin/e2fsck"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("this campaign needs %s: %w", tool, err)
		}
	}
	p, err := rig.New(ctx, e.Program, filepath.Join(e.Dir, "place"), e.Now)
	if err != nil {
		return nil, err
	}
	payload := p.Path("payload")
	if err := errors.Join(os.Mkdir(payload, 0o700), rig.Mixed(filepath.Join(payload, "mixed"), 40<<20, e.Seed)); err != nil {
		return nil, err
	}
	if err := guest.Build(ctx, p.Path("guest"), diskSize, payload); err != nil {
		return nil, err
	}
	s, err := p.Must(ctx, "backup", p.Path("guest"))
	if err != nil {
		return nil, err
	}
	var points []string
	if err := json.Unmarshal(s.Summary().Points, &points); err != nil || len(points) != 1 {
		return nil, fmt.Errorf("points %s of the guest: %w", s.Summary().Points, err)
	}
	return &bench{e, p, points[0]}, nil
}

func (b *bench) Close() error { return nil }

// course is one trial.
type course struct {
	*bench
	place  *rig.Place // with a state folder of its own
	rng    *rand.Rand
	strike strike
	phase  string
	run    run
	guest  *workload
	home   string
	small  string // a small file system, if the trial is to fill one
	move   *rig.Process
	notes  []string
}

// run is what millrace says of it.
type run struct {
	Run, State, Console, QMP string
	PID                      int
	Exports                  []struct{ URI string }
}

// Trial implements trial.Bench.
func (b *bench) Trial(ctx context.Context, n int, rng *rand.Rand) (out trial.Outcome, err error) {
	folder := filepath.Join(b.Dir, fmt.Sprintf("trial-%d", n))
	all, phases := strikes(), []string{"serve", "copy", "switch"}
	c := &course{bench: b, rng: rng, strike: all[n%len(all)], phase: phases[n/len(all)%len(phases)], home: filepath.Join(folder, "home")}
	if c.strike.serveOnly {
		c.phase = "serve"
	}
	c.place = b.place.With(b.place.Vault, filepath.Join(folder, "state"))
	out.Kinds = []string{c.strike.name + ", " + c.phase}
	defer func() { err = errors.Join(err, c.end(), os.RemoveAll(folder)) }()
	if err := c.prepare(ctx); err != nil {
		return out, fmt.Errorf("prepare: %w", err)
	}
	err = c.course(ctx)
	out.Note, out.Checks = strings.Join(c.notes, "; "), len(c.guest.safe)
	return out, err
}

func (c *course) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

func (c *course) end() (err error) {
	if c.guest != nil {
		_ = c.guest.conn.Close()
	}
	for _, word := range []string{"supervise", "rundirect", "qemu-system"} { // of a trial that failed
		for _, pid := range c.processes(word) {
			kill(pid)
		}
	}
	if c.small != "" {
		for range 50 {
			if err = exec.Command("umount", c.small).Run(); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return err
}

// prepare starts the guest and its work.
func (c *course) prepare(ctx context.Context) error {
	if err := os.MkdirAll(c.place.State, 0o700); err != nil {
		return err
	}
	if c.strike.fills {
		c.small = c.place.State
		if said, err := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", "size=96m", "millrace-trial", c.small).CombinedOutput(); err != nil {
			c.small = ""
			return fmt.Errorf("mount: %w: %s", err, said)
		}
	}
	if _, err := c.place.Must(ctx, "run", "start", c.point, "--host", "qemu:", "--name", "one", "--isolated", "--guest-memory", "160MiB", "--memory", "16MiB"); err != nil {
		return err
	}
	if err := c.look(ctx); err != nil {
		return err
	}
	c.guest = &workload{safe: map[string]string{}}
	if err := c.guest.connect(ctx, c.run.Console); err != nil {
		return err
	}
	if err := c.guest.until("GUEST-READY", patience); err != nil {
		return err
	}
	return c.guest.begin()
}

// look asks what has become of the run.
func (c *course) look(ctx context.Context) error {
	e, err := c.place.Run(ctx, "run", "list")
	if err != nil {
		return err
	}
	var all []run
	for _, l := range e.Lines {
		if strings.HasPrefix(string(l.Raw), "[") {
			err = json.Unmarshal(l.Raw, &all)
		}
	}
	if err != nil || len(all) != 1 {
		return fmt.Errorf("%d runs are listed (%w): %+v", len(all), err, e)
	}
	c.run = all[0]
	return nil
}

func (c *course) folder() string { return filepath.Join(c.place.State, "runs", c.run.Run) }

// course is the trial once the guest works.
func (c *course) course(ctx context.Context) error {
	if err := c.guest.more(3, patience); err != nil {
		return err
	}
	if err := c.reach(ctx); err != nil {
		return err
	}
	if err := c.strike.do(ctx, c); err != nil {
		return fmt.Errorf("strike: %w", err)
	}
	if err := c.moveEnds(); err != nil {
		return err
	}
	if err := c.recover(ctx); err != nil {
		return err
	}
	if err := c.guest.check(); err != nil {
		return err
	}
	if err := c.finish(ctx); err != nil {
		return err
	}
	e, err := c.place.Run(ctx, "verify", c.point, "--read-data")
	if err != nil || e.Exit != 0 {
		return fmt.Errorf("the point: exit %d, %w: %s", e.Exit, err, e.Stderr)
	}
	return nil
}

// reach goes on to the moment at which the trial strikes.
func (c *course) reach(ctx context.Context) (err error) {
	if c.phase == "serve" {
		time.Sleep(time.Duration(c.rng.IntN(1500)) * time.Millisecond)
		return nil
	}
	if c.move, err = c.place.Start(ctx, nil, "run", "finalize", "one", "--to", c.home); err != nil {
		return err
	}
	file := filepath.Join(c.home, "*.raw")
	if c.phase == "switch" {
		file = filepath.Join(c.folder(), "switching")
	}
	for end := time.Now().Add(patience); ; {
		if found, _ := filepath.Glob(file); len(found) > 0 {
			break
		}
		select {
		case <-c.move.Over():
			c.note("too late")
			return nil
		default:
		}
		if time.Now().After(end) {
			return errors.New("the move does not come as far as this")
		}
		time.Sleep(200 * time.Microsecond)
	}
	longest := map[string]int{"copy": 900_000, "switch": 12_000}[c.phase]
	time.Sleep(time.Duration(c.rng.IntN(longest)) * time.Microsecond)
	return nil
}

// moveEnds waits for the end of a move that was struck.
func (c *course) moveEnds() error {
	if c.move == nil {
		return nil
	}
	select {
	case <-c.move.Over():
	case <-time.After(2 * patience):
		_ = c.move.Kill()
		return errors.New("the move does not end")
	}
	e, err := c.move.Wait()
	c.note("move: exit %d %s", e.Exit, strings.TrimSpace(e.Stderr))
	return err
}

// recover does what an operator is told to do, and nothing if nothing was told.
func (c *course) recover(ctx context.Context) error {
	was := c.run.PID
	if len(c.processes("supervise")) == 0 {
		for len(c.processes("rundirect")) > 0 { // leaves when its control pipe closes
			time.Sleep(5 * time.Millisecond)
		}
	}
	if err := c.look(ctx); err != nil {
		return err
	}
	if s := c.run.State; c.run.PID == 0 || strings.Contains(s, "without") || s == "ended" {
		if _, err := c.place.Must(ctx, "run", "resume", "one"); err != nil {
			return err
		}
		if err := c.look(ctx); err != nil {
			return err
		}
		c.note("resumed")
	}
	if c.run.PID != was {
		c.note("started again")
		if err := c.guest.connect(ctx, c.run.Console); err != nil {
			return err
		}
		return c.guest.until("GUEST-READY", patience)
	}
	if err := c.guest.more(2, patience); err != nil {
		_ = c.look(ctx)
		return fmt.Errorf("the guest, which is %s, does not go on: %w", c.run.State, err)
	}
	return c.guest.rest()
}

// finish ends the run in one of three ways.
func (c *course) finish(ctx context.Context) error {
	way := []string{"home", "keep", "discard"}[c.rng.IntN(3)]
	if strings.Contains(c.run.State, "at home") {
		way = "home"
	}
	c.note("%s", way)
	if way == "discard" {
		_, err := c.place.Must(ctx, "run", "stop", "one", "--discard")
		return errors.Join(err, c.gone())
	}
	if err := c.guest.flush(); err != nil {
		return err
	}
	disk := filepath.Join(c.home, "guest-0.raw")
	if way == "keep" {
		s, err := c.place.Must(ctx, "run", "stop", "one", "--keep", "--grace", "0")
		if err != nil {
			return err
		}
		disk = filepath.Join(filepath.Dir(c.home), "kept.raw")
		if _, err := c.place.Must(ctx, "restore", s.Summary().Point, "--to", disk); err != nil {
			return err
		}
	} else {
		if _, err := c.place.Must(ctx, "run", "finalize", "one", "--to", c.home); err != nil {
			return err
		}
		if err := c.guest.check(); err != nil {
			return fmt.Errorf("at home: %w", err)
		}
		if _, err := c.place.Must(ctx, "run", "stop", "one"); err != nil {
			return err
		}
	}
	return errors.Join(c.gone(), c.whole(ctx, disk))
}

// gone wants nothing of the run to be left.
func (c *course) gone() error {
	for _, word := range []string{"supervise", "rundirect", "qemu-system"} {
		if pids := c.processes(word); len(pids) > 0 {
			return fmt.Errorf("processes %q are left: %v", word, pids)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(c.place.State, "runs")); len(left) > 0 {
		return fmt.Errorf("left in the state folder: %v", left)
	}
	return nil
}

// whole looks at the file system on a disk whose guest was switched off: its journal is replayed,
// and then nothing is wrong.
func (c *course) whole(ctx context.Context, disk string) error {
	part := filepath.Join(filepath.Dir(c.home), "part")
	if err := cut(disk, part); err != nil {
		return err
	}
	said, err := exec.CommandContext(ctx, "/sbin/e2fsck", "-fp", part).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 { // it has replayed
		said, err = exec.CommandContext(ctx, "/sbin/e2fsck", "-fn", part).CombinedOutput()
	}
	if err != nil {
		return fmt.Errorf("the file system: %w: %s", err, said)
	}
	return nil
}

// cut copies the guest's file system off its disk.
func cut(disk, part string) error {
	from, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(part)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.NewSectionReader(from, rootAt, 1<<40))
	return errors.Join(err, to.Close())
}
