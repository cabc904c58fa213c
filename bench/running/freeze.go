package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/millrace-backup/millrace/bench/gauge"
)

// freezes backs up a guest with four disks again and again: qcow2 and raw, two each.
// Before each job something is written to each disk and left in the page cache, and
// while it runs somebody writes on.
func (b *bench) freezes(ctx context.Context) (jobs []job, err error) {
	var disks []disk
	for n := range 4 {
		d, err := create(ctx, b.folder, fmt.Sprintf("d%d", n), []string{"qcow2", "raw"}[n%2], 16<<30)
		if err != nil {
			return nil, err
		}
		defer os.Remove(d.path)
		disks = append(disks, d)
	}
	m, err := start(ctx, disks, "-m", "32")
	if err != nil {
		return nil, err
	}
	defer m.stop()
	p, err := b.place(ctx, "job")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.folder)) }()
	for n := range b.jobs + 1 {
		for k, d := range disks {
			err := m.write(ctx, d, func(w *writer) error {
				// The same place each time, or the images would be large in the end.
				return content{b.pages, b.pages}.fill(w, noise(byte(4*n+k)))
			})
			if err != nil {
				return nil, err
			}
		}
		stop := m.busy(ctx, disks[0])
		j, err := p.backup(ctx, m, "--codec", "none")
		if err := errors.Join(err, stop()); err != nil {
			return nil, err
		}
		if n == 0 {
			continue // the first has no bitmaps yet
		}
		b.say("freeze %d: %.1f ms", n, j.Frozen)
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// busy writes to a disk as its guest does, until it is stopped.
func (m *machine) busy(ctx context.Context, d disk) (stop func() error) {
	over, end := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := int64(0); ; n++ {
			select {
			case <-over:
				end <- nil
				return
			default:
			}
			if err := m.io(ctx, d.name, fmt.Sprintf("write -q -P %d %d 4096", n%256, (1<<30)+n*7919%4096*block)); err != nil {
				end <- err
				return
			}
		}
	}()
	return func() error { close(over); return <-end }
}

const mostFrozen = 200 // ms

func judgeFreezes(jobs []job) gauge.Check {
	return gauge.Check{Name: "frozen, four disks, no agent: ms", Limit: mostFrozen, Value: gauge.Over(jobs, func(j job) float64 { return j.Frozen })}
}
