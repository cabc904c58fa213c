// Package running disturbs backups of running guests: it kills what takes part in them
// at moments nobody chose, and sees what becomes of the guest, of the job, and of the next
// backup.
//
// A trial starts a real QEMU with a qcow2 disk and a raw disk, makes a point of its guest,
// has the guest write here and there, and starts a backup through its QMP socket: by
// what has changed, or of all and slowly, so that there is a middle to hit. At a moment
// drawn from the time such a job takes one thing is done to it: see [strikes].
//
// # What passes
//
// The job ends by itself within a minute, with an exit code that fits: 0 and a point that
// restores as the disks were, or another and no point. If QEMU lives, then within ten
// seconds the guest runs and nothing of ours is left in QEMU; where the process that sees
// to that was killed as well, the next backup does it. The next backup ends with 0, restores
// as the disks are then, and leaves one bitmap on each disk; verify --read-data and audit
// verify find nothing. Nothing that was changed is missed: all points are compared with
// what the guest has written, byte for byte.
package running

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
)

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "running", Count: 200,
		About: "A trial backs up a guest that runs in a real QEMU, incrementally or whole, and at a random moment kills a process of the job, the job, its guard, or QEMU, cuts the\n" +
			"QMP socket, stops the process that froze the guest, or fills the fleecing area. It passes if the guest runs on with nothing of ours left in QEMU, the job's exit\n" +
			"code fits, what has a point restores byte for byte, and the next backup does so too.",
		Open: open,
	}
}

const (
	mib  = 1 << 20
	size = 64 * mib
	// slack is how long the guest may stand still, or have something of ours in it.
	slack  = 10 * time.Second
	atMost = time.Minute // of a job

	// How long an incremental backup takes here, and a whole one that is slowed down.
	quick, slow = 400 * time.Millisecond, 1100 * time.Millisecond
)

type bench struct{ trial.Env }

func open(_ context.Context, e trial.Env) (trial.Bench, error) {
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("this campaign needs %s: %w", tool, err)
		}
	}
	return &bench{e}, nil
}

func (b *bench) Close() error { return nil }

// course is one trial.
type course struct {
	*bench
	place  *rig.Place
	rng    *rand.Rand
	vm     *qemutest.VM
	proxy  *qemutest.Proxy
	fleece string // a small file system, if the trial is to fill one
	strike strike
	note   string
	// guarded: somebody is left to clean up.
	guarded bool
}

// Trial implements trial.Bench.
func (b *bench) Trial(ctx context.Context, n int, rng *rand.Rand) (out trial.Outcome, err error) {
	folder := filepath.Join(b.Dir, fmt.Sprintf("trial-%d", n))
	all := strikes()
	c := &course{bench: b, rng: rng, strike: all[n%len(all)], guarded: true}
	out.Kinds = []string{c.strike.name}
	defer func() { err = errors.Join(err, c.end(), os.RemoveAll(folder)) }()
	if err := c.prepare(ctx, folder); err != nil {
		return out, err
	}
	err = c.run(ctx)
	out.Note = c.note
	return out, err
}

func (c *course) end() error {
	if c.proxy != nil {
		c.proxy.Close()
	}
	if c.vm != nil {
		c.vm.Kill()
	}
	if c.fleece != "" {
		return exec.Command("umount", c.fleece).Run()
	}
	return nil
}

func disks() []string { return []string{"a", "b"} }

func (c *course) format(disk string) string { return map[string]string{"a": "qcow2", "b": "raw"}[disk] }

// prepare makes vault, disks and guest, a first point, and changes.
func (c *course) prepare(ctx context.Context, folder string) (err error) {
	if c.place, err = rig.New(ctx, c.Program, folder, c.Now); err != nil {
		return err
	}
	for _, d := range disks() {
		if err := rig.Mixed(c.place.Path("mixed"), size/4, c.rng.Uint64()); err != nil {
			return err
		}
		if err := os.Truncate(c.place.Path("mixed"), size); err != nil {
			return err
		}
		if said, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", c.format(d), c.place.Path("mixed"), c.place.Path(d)).CombinedOutput(); err != nil {
			return fmt.Errorf("qemu-img: %w: %s", err, said)
		}
	}
	if err := c.launch(); err != nil {
		return err
	}
	if c.strike.fills {
		c.fleece = c.place.Path("fleece")
		if err := os.Mkdir(c.fleece, 0o700); err != nil {
			return err
		}
		if said, err := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", c.fleece).CombinedOutput(); err != nil {
			c.fleece = ""
			return fmt.Errorf("mount a small file system: %w: %s", err, said)
		}
	}
	if _, err := c.place.Must(ctx, "backup", "qemu:"+c.proxy.Socket); err != nil {
		return fmt.Errorf("the first backup: %w", err)
	}
	return c.write(20 + c.rng.IntN(60))
}

func (c *course) launch() (err error) {
	var list []qemutest.Disk
	for _, d := range disks() {
		list = append(list, qemutest.Disk{Name: d, Path: c.place.Path(d), Format: c.format(d)})
	}
	if c.vm, err = qemutest.Launch(list); err != nil {
		return err
	}
	c.proxy, err = qemutest.StartProxy(c.vm)
	return err
}

// write has the guest write n times here and there.
func (c *course) write(n int) error {
	for range n {
		at, length := c.rng.IntN(size/512-2000)*512, (1+c.rng.IntN(16))*512
		if c.rng.IntN(10) == 0 {
			length = 700 << 10
		}
		if err := c.vm.IO(disks()[c.rng.IntN(2)], fmt.Sprintf("write -q -P %d %d %d", 1+c.rng.IntN(255), at, length)); err != nil {
			return err
		}
	}
	return nil
}

// shadow copies what the guest sees of its disks, as raw files.
func (c *course) shadow(ctx context.Context, folder string) error {
	if err := os.MkdirAll(c.place.Path(folder), 0o700); err != nil {
		return err
	}
	for _, d := range disks() {
		if c.vm != nil {
			_ = c.vm.IO(d, "flush")
		}
		to := filepath.Join(c.place.Path(folder), d+".raw")
		if said, err := exec.CommandContext(ctx, "qemu-img", "convert", "-U", "-f", c.format(d), "-O", "raw", c.place.Path(d), to).CombinedOutput(); err != nil {
			return fmt.Errorf("qemu-img: %w: %s", err, said)
		}
	}
	return nil
}

// same wants a point to restore as a shadow.
func (c *course) same(ctx context.Context, point, shadow string) error {
	out := c.place.Path("restored")
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if _, err := c.place.Must(ctx, "restore", point, "--to", out, "--format", "raw"); err != nil {
		return err
	}
	for _, d := range disks() {
		equal, err := rig.Equal(filepath.Join(out, d+".raw"), filepath.Join(c.place.Path(shadow), d+".raw"))
		if err == nil && !equal {
			err = fmt.Errorf("WRONG BYTES: disk %s of point %s is not what the guest had", d, point)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run starts the backup, disturbs it, and judges.
func (c *course) run(ctx context.Context) error {
	if err := c.shadow(ctx, "before"); err != nil {
		return err
	}
	args, longest := []string{"backup", "qemu:" + c.proxy.Socket}, quick
	if c.rng.IntN(2) == 0 {
		longest = slow
		args = append(args, "--scan", "full", "--limit-read", "40MiB")
	}
	if c.fleece != "" {
		args = append(args, "--fleece", c.fleece)
	}
	limited, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	frozen := make(chan struct{}, 16)
	c.strike.before(c)
	p, err := c.place.Start(limited, func(l rig.Line) {
		if l.Kind == "SnapshotTaken" {
			frozen <- struct{}{}
		}
	}, args...)
	if err != nil {
		return err
	}
	wait := time.Duration(c.rng.Int64N(int64(longest)))
	if c.strike.frozen {
		select {
		case <-frozen:
		case <-p.Over():
		}
		wait /= 8
	}
	select {
	case <-time.After(wait):
	case <-p.Over():
	}
	did, err := c.strike.do(c, p)
	if err != nil {
		return err
	}
	ended, err := p.Wait()
	if err != nil {
		return err
	}
	if limited.Err() != nil {
		return fmt.Errorf("%s after %v (%s): the job did not end within %v", c.strike.name, wait, did, atMost)
	}
	c.note = fmt.Sprintf("%s after %v: %s; exit %d, %s", strings.Join(args[2:], " "), wait.Round(time.Millisecond), did, ended.Exit, ended.Fault().Cause)
	return c.judge(ctx, ended)
}
