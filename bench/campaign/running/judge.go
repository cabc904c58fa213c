package running

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
)

// judge looks at what the disturbed job has left, and at what comes after it.
func (c *course) judge(ctx context.Context, ended rig.Ended) error {
	if ended.Exit == 0 {
		var points []string
		if err := json.Unmarshal(ended.Summary().Points, &points); err != nil || len(points) != 1 {
			return fmt.Errorf("exit 0 and points %s: %w", ended.Summary().Points, err)
		}
		if err := c.same(ctx, points[0], "before"); err != nil {
			return err
		}
	} else if ended.Exit != 1 && ended.Exit != 3 && ended.Exit != -1 {
		return fmt.Errorf("exit code %d: %w", ended.Exit, ended.Err("backup"))
	}
	if c.vm == nil {
		if err := c.launch(); err != nil {
			return fmt.Errorf("start the guest again: %w", err)
		}
	} else if c.guarded {
		if err := c.atEase(); err != nil {
			return fmt.Errorf("after the job: %w", err)
		}
	}
	if err := c.write(10); err != nil {
		return fmt.Errorf("the guest cannot write: %w", err)
	}
	return c.next(ctx)
}

// atEase waits until the guest runs and has nothing of ours.
func (c *course) atEase() error {
	for end := time.Now().Add(slack); ; time.Sleep(50 * time.Millisecond) {
		left, err := c.vm.Remains()
		if err != nil {
			return fmt.Errorf("QEMU does not answer: %w", err)
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("left in QEMU: %v", left)
		}
	}
}

// next makes the next backup, which must be as if nothing had been.
func (c *course) next(ctx context.Context) error {
	if err := c.shadow(ctx, "after"); err != nil {
		return err
	}
	ended, err := c.place.Must(ctx, "backup", "qemu:"+c.proxy.Socket)
	if err != nil {
		return fmt.Errorf("the next backup: %w", err)
	}
	left, err := c.vm.Remains()
	if err != nil || len(left) > 0 {
		return errors.Join(fmt.Errorf("left in QEMU after the next backup: %v", left), err)
	}
	bitmaps, err := c.vm.AllBitmaps()
	if err != nil || len(bitmaps) != len(disks()) {
		return errors.Join(fmt.Errorf("bitmaps after the next backup: %v", bitmaps), err)
	}
	var points []string
	if err := json.Unmarshal(ended.Summary().Points, &points); err != nil || len(points) != 1 {
		return fmt.Errorf("the next backup has points %s: %w", ended.Summary().Points, err)
	}
	if err := c.same(ctx, points[0], "after"); err != nil {
		return fmt.Errorf("the next backup: %w", err)
	}
	for _, args := range [][]string{{"verify", "--read-data"}, {"audit", "verify"}} {
		if _, err := c.place.Must(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}
