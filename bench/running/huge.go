package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/millrace-backup/millrace/bench/gauge"
)

// idle makes increments of a huge disk to which nobody has written.
func (b *bench) idle(ctx context.Context) (jobs []job, err error) {
	d, err := create(ctx, b.folder, "huge", "qcow2", b.huge)
	if err != nil {
		return nil, err
	}
	defer os.Remove(d.path)
	m, err := start(ctx, []disk{d}, "-m", "32")
	if err != nil {
		return nil, err
	}
	defer m.stop()
	c := content{b.huge, min(16*region, b.data)}
	if err := m.write(ctx, d, func(w *writer) error { return c.fill(w, noise(99)) }); err != nil {
		return nil, err
	}
	p, err := b.place(ctx, "job")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.folder)) }()
	full, err := p.backup(ctx, m, "--codec", "none")
	if err != nil {
		return nil, err
	}
	b.say("nothing changed: full %.2f s", full.Seconds)
	flags, err := b.profiled("nothing changed", "--codec", "none")
	if err != nil {
		return nil, err
	}
	for range b.runs {
		j, err := p.backup(ctx, m, flags...)
		if err != nil {
			return nil, err
		}
		if j.Mode != "incremental" || j.Read != 0 {
			return nil, fmt.Errorf("%d bytes read, %s: %s", j.Read, j.Mode, j.Why)
		}
		b.say("nothing changed: %.2f s, %.2f CPU-s, QEMU's %.2f, sampled %d", j.Seconds, j.CPU, j.QEMU, j.Sampled)
		jobs = append(jobs, j)
	}
	return jobs, nil
}

const mostIdle = 2 // seconds

func judgeIdle(jobs []job, size int64) gauge.Check {
	return gauge.Check{
		Name: fmt.Sprintf("nothing changed, %.0f TiB: s", float64(size)/(1<<40)), Limit: mostIdle, Value: gauge.Over(jobs, func(j job) float64 { return j.Seconds }),
	}
}
