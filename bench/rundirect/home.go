package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// home: a move of an idle guest against a restore of it, and what a busy one can do meanwhile.
func (b *bench) home(ctx context.Context) error {
	if err := b.guest(ctx); err != nil {
		return err
	}
	restore, err := b.times(func() (float64, error) {
		dropCaches()
		begun := time.Now()
		err := b.millrace(ctx, nil, "restore", "guest@latest", "--to", b.path("out"), "--force")
		return time.Since(begun).Seconds(), err
	})
	if err != nil {
		return err
	}
	var paused float64
	move, err := b.times(func() (float64, error) {
		took, stood, err := b.move(ctx, func(string) error { return nil })
		paused = max(paused, stood)
		return took, err
	})
	if err != nil {
		return err
	}
	fmt.Printf("| speed of `run finalize`, of a restore's (%.2f s) | %.2f | 0.8 |\n| the longest pause of the guest for the switch, s | %.3f | 1 |\n", restore, restore/move, paused)
	share, err := b.times(func() (share float64, err error) {
		var before, begun, began float64
		var c *console
		_, _, err = b.move(ctx, func(socket string) (err error) {
			if c, err = open(socket); err != nil {
				return err
			}
			work := "(n=0; while :; do dd if=/dev/urandom of=/srv/busy bs=4k count=16 conv=fsync 2>/dev/null; n=$((n+1)); echo $n > /run/n; done) & true"
			if _, err = c.shell(work); err != nil {
				return err
			}
			time.Sleep(time.Second)
			first, err := c.count()
			time.Sleep(8 * time.Second)
			second, err2 := c.count()
			before = (second - first) / 8
			began, begun = second, float64(time.Now().UnixMilli())
			return errors.Join(err, err2)
		}, func() error {
			n, err := c.count()
			share = (n - began) / (float64(time.Now().UnixMilli()) - begun) * 1000 / before
			return errors.Join(err, c.Close())
		})
		return share, err
	})
	if err == nil {
		fmt.Printf("| what a busy guest writes, synced, while it moves, of before | %.2f | 0.5 |\n", share)
	}
	return err
}

// move runs the guest and moves it home, with something before and after that.
func (b *bench) move(ctx context.Context, before func(console string) error, after ...func() error) (took, paused float64, err error) {
	var r struct{ Console string }
	if err := b.millrace(ctx, &r, "run", "start", "guest@latest", "--host", "qemu:", "--name", "one", "--guest-memory", "256MiB"); err != nil {
		return 0, 0, err
	}
	defer func() {
		err = errors.Join(err, b.millrace(ctx, nil, "run", "stop", "one", "--discard"), os.RemoveAll(b.path("home")))
	}()
	for last := int64(-1); ; { // it boots, and then has nothing more to do
		var all []struct {
			Read int64 `json:"read_bytes"`
		}
		time.Sleep(5 * time.Second)
		if err := b.millrace(ctx, &all, "run", "list"); err != nil || len(all) != 1 {
			return 0, 0, errors.Join(err, fmt.Errorf("%d runs", len(all)))
		}
		if all[0].Read == last {
			break
		}
		last = all[0].Read
	}
	dropCaches()
	if err := before(r.Console); err != nil {
		return 0, 0, err
	}
	var m struct {
		Paused   float64 `json:"paused_s"`
		Duration float64 `json:"duration_s"`
	}
	err = b.millrace(ctx, &m, "run", "finalize", "one", "--to", b.path("home"))
	for _, f := range after {
		if err == nil {
			err = f()
		}
	}
	return m.Duration, m.Paused, err
}

// console is the guest's serial port.
type console struct {
	net.Conn
	lines *bufio.Scanner
	marks int
}

func open(socket string) (*console, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	return &console{Conn: c, lines: bufio.NewScanner(c)}, nil
}

// shell runs a command in the guest and returns the last line it prints.
func (c *console) shell(command string) (last string, err error) {
	c.marks++
	end := fmt.Sprintf("END-%d", c.marks)
	if _, err := fmt.Fprintf(c, "%s; echo END''-%d\n", command, c.marks); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	for c.lines.Scan() {
		line := strings.TrimSpace(c.lines.Text())
		if line == end {
			return last, nil
		}
		last = line
	}
	return "", fmt.Errorf("the guest does not answer: %w", c.lines.Err())
}

func (c *console) count() (float64, error) {
	text, err := c.shell("cat /run/n")
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(text, 64)
}
