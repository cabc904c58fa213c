package upkeep

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/workload"
)

// listing is what is known of a point.
type listing int

const (
	sure  listing = iota // it is listed
	maybe                // who forgot it was killed
	never                // it is forgotten
)

// point is one that was made.
type point struct {
	file   string // the disk as it was
	guest  string
	listed listing
}

// course is one trial.
type course struct {
	*bench
	place  *rig.Place
	rng    *rand.Rand
	points map[string]point
	order  []string // of points, as they were made
	unsure []string // disks of backups that were killed
	// recovery is the recovery key of the last rotation that told it.
	recovery string
	rotating bool // a rotation runs beside what runs

	kinds []string
	note  string
	hits  int
}

// command is something that can be started and killed.
type command struct {
	name  string
	args  []string
	place *rig.Place
	guest string // of a backup
	point string // of a forget
	disk  string // of a backup: a copy of what it read
	keep  int    // of a rule
}

func (c command) String() string { return strings.TrimSpace(c.name + " " + c.guest) }

// commands is how often each is drawn.
func commands() map[string]int {
	return map[string]int{"backup": 4, "forget": 3, "prune": 4, "rotate": 2, "rule": 1}
}

// draw draws a command, of which each is not beside.
func (t *course) draw(beside string) (command, error) {
	names := []string{}
	for name, times := range commands() {
		if name == beside || (name == "rotate" && beside == "backup") || (name == "backup" && beside == "rotate") {
			continue // a rotation ends the backups beside it, as its help says
		}
		for range times {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	c := command{name: names[t.rng.IntN(len(names))], place: t.place}
	switch c.name {
	case "backup":
		c.guest = guests()[t.rng.IntN(len(guests()))]
		image := t.place.Path(c.guest)
		if _, err := workload.Scatter(image, 0.02, t.rng.Uint64()); err != nil {
			return c, err
		}
		var err error
		if c.disk, err = keep(image, t.place.Dir); err != nil {
			return c, err
		}
		c.args = []string{"backup", image}
	case "forget":
		var all []string
		for _, id := range t.order {
			if t.points[id].listed != never {
				all = append(all, id)
			}
		}
		c.point = all[t.rng.IntN(len(all))]
		c.args = []string{"forget", c.point, "--force"}
	case "rule":
		c.keep = 2 + t.rng.IntN(3)
		c.args = []string{"forget", "--keep-last", fmt.Sprint(c.keep)}
	case "prune":
		c.args = []string{"prune", "--margin", "0s"}
		if t.rng.IntN(2) == 0 {
			c.args = append(c.args, "--sparse", "80")
		}
		if t.rng.IntN(3) == 0 {
			c.args = append(c.args, "--full")
		}
	case "rotate":
		c.args = []string{"key", "rotate"}
	}
	return c, nil
}

// round starts one command or two, kills, and gives them again.
func (t *course) round(ctx context.Context) error {
	first, err := t.draw("")
	if err != nil {
		return err
	}
	all := []command{first}
	if t.rng.IntN(3) == 0 {
		second, err := t.draw(first.name)
		if err != nil {
			return err
		}
		if t.rng.IntN(2) == 0 {
			other := *t.place
			other.State = t.place.Path("other")
			second.place = &other
		}
		all = append(all, second)
	}
	victim := t.rng.IntN(len(all))
	for _, c := range all {
		t.kinds = append(t.kinds, c.name)
		t.rotating = t.rotating || c.name == "rotate"
		if c.name == "rule" {
			t.rule(c.keep)
		}
	}
	if len(all) == 2 {
		t.kinds = append(t.kinds, "two at once")
	}
	err = t.strike(ctx, all, victim)
	if err == nil {
		err = t.holds(ctx)
	}
	if err == nil {
		err = t.again(ctx, all[victim])
	}
	if err == nil {
		err = t.holds(ctx)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", all, err)
	}
	return nil
}

// strike runs commands, one of which is killed, and notes what they acknowledged.
func (t *course) strike(ctx context.Context, all []command, victim int) error {
	running := make([]*rig.Process, len(all))
	starts := t.Now()
	for k, c := range all {
		var err error
		if running[k], err = c.place.Start(ctx, nil, c.args...); err != nil {
			return err
		}
	}
	name, b := all[victim].name, blow{}
	select {
	case <-time.After(time.Duration(t.rng.Float64() * 1.02 * float64(t.lasts[name]))):
		var err error
		if b, err = t.kill(running[victim]); err != nil {
			return err
		}
	case <-running[victim].Over():
		t.lasts[name] = t.Now().Sub(starts)
	}
	if b.hit {
		t.hits++
	} else {
		b.what = "too late"
		t.kinds = append(t.kinds, b.what)
	}
	t.note += fmt.Sprintf("%s, %s; ", all[victim], b.what)
	var wrong []error
	for k, c := range all {
		end, err := running[k].Wait()
		if err == nil {
			err = rig.Gone(ctx, running[k].PID(), 0)
		}
		if err == nil && k == victim {
			err = t.ended(c, end, b)
		} else if err == nil {
			err = t.ended(c, end, blow{})
		}
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

// blow is what was done to a command.
type blow struct {
	hit   bool
	fatal bool // its main process
	what  string
}

// kill kills one process of a command, its main process, or all of them.
func (t *course) kill(p *rig.Process) (b blow, err error) {
	members := rig.Members(p.PID())
	if len(members) == 0 {
		return b, nil
	}
	pid := p.PID()
	switch t.rng.IntN(3) {
	case 0:
		return blow{true, true, "all processes"}, p.Kill()
	case 1:
		pid = members[t.rng.IntN(len(members))]
	}
	b = blow{true, pid == p.PID(), fmt.Sprintf("one of %d processes", len(members))}
	if b.fatal {
		b.what = "its main process"
	}
	victim, err := os.FindProcess(pid)
	if err == nil {
		err = victim.Kill()
	}
	if errors.Is(err, os.ErrProcessDone) {
		return blow{}, nil
	}
	return b, err
}

// ended notes what a command has acknowledged, and what may have come of it if it was
// killed.
func (t *course) ended(c command, end rig.Ended, b blow) error {
	killed := b.fatal && end.Exit != 0
	if end.Exit != 0 && !killed {
		return t.excused(c, end)
	}
	switch c.name {
	case "backup":
		if killed {
			t.unsure = append(t.unsure, c.disk)
			return nil
		}
		id := pointOf(end)
		if t.points[id].file != "" || id == "" {
			return fmt.Errorf("backup says that it made point %q", id)
		}
		t.add(id, c.disk, sure)
	case "forget":
		t.set(c.point, map[bool]listing{true: maybe, false: never}[killed])
	case "rotate":
		if !killed {
			t.recovery = recoveryOf(end)
		}
	}
	return nil
}

// excused returns nil if a command may fail that nobody killed.
func (t *course) excused(c command, end rig.Ended) error {
	code := end.Fault().Code
	switch {
	case c.name == "forget" && code == "no-match" && t.points[c.point].listed != sure: // somebody else was faster
		t.set(c.point, never)
		return nil
	case t.rotating && code == "keys-rotated":
		if c.name == "forget" {
			t.set(c.point, maybe)
		}
		return nil
	}
	return end.Err(c.args...)
}

// again gives a command once more, with nobody in its way.
func (t *course) again(ctx context.Context, c command) error {
	minute, done := context.WithTimeout(ctx, time.Minute)
	defer done()
	starts := t.Now()
	t.rotating = false
	if c.name == "rule" { // killed before it forgot anything, it may do so now
		t.rule(c.keep)
	}
	end, err := t.place.Run(minute, c.args...)
	if minute.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%v, given again, has not ended after a minute", c.args)
	}
	if err == nil {
		err = t.ended(c, end, blow{})
	}
	if err != nil {
		return fmt.Errorf("given again: %w", err)
	}
	t.lasts[c.name] = t.Now().Sub(starts)
	return nil
}
