package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/bench/guest"
)

// load is what a guest that writes got done, before, during and after a backup.
type load struct {
	Idle    []float64 `json:"idle_iops"` // of each second
	During  []float64 `json:"iops_during_backup"`
	Seconds float64   `json:"backup_s"`
	CPU     float64   `json:"backup_cpu_s"` // which the guest, on a small machine, has not
}

const (
	writing  = "/srv/writer" // the program in the guest
	idleTime = 15 * time.Second
	settling = 5 * time.Second // the first seconds of idleness, which do not count
	upload   = "10MiB"
)

// boot starts a guest with a system in it and a second disk, and waits until it is ready.
func (b *bench) boot(ctx context.Context) (m *machine, lines <-chan string, err error) {
	payload := filepath.Join(b.folder, "payload")
	if err := os.MkdirAll(payload, 0o755); err != nil {
		return nil, nil, err
	}
	c := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(payload, "writer"), "github.com/millrace-backup/millrace/bench/running/writer")
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := c.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("build the guest's program: %w: %s", err, said)
	}
	system := disk{"system", filepath.Join(b.folder, "system.raw"), "raw"}
	if err := guest.Build(ctx, system.path, 128<<20, payload); err != nil {
		return nil, nil, err
	}
	data, err := create(ctx, b.folder, "data", "raw", b.load)
	if err != nil {
		return nil, nil, err
	}
	if m, err = start(ctx, []disk{system, data}, "-m", "256", "-serial", "stdio", "-no-reboot"); err != nil {
		return nil, nil, err
	}
	said := make(chan string, 1000)
	go func() {
		defer close(said)
		for s := bufio.NewScanner(m.console); s.Scan(); {
			said <- s.Text()
		}
	}()
	for line := range said {
		if strings.Contains(line, "GUEST-READY") {
			err := m.write(ctx, data, func(w *writer) error { return content{b.load, b.load}.fill(w, noise(77)) })
			if err != nil {
				m.stop()
			}
			return m, said, err
		}
	}
	m.stop()
	return nil, nil, errors.New("the guest has not started")
}

// loaded has a guest write at random while it is backed up to a slow vault.
func (b *bench) loaded(ctx context.Context) (l load, err error) {
	m, lines, err := b.boot(ctx)
	if err != nil {
		return l, err
	}
	defer m.stop()
	p, err := b.place(ctx, "job")
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.folder)) }()
	if _, err := io.WriteString(m.console, writing+" /dev/vdb\n"); err != nil {
		return l, err
	}
	took := make(chan error, 1)
	began, phase, over := time.Now(), &l.Idle, false
	for !over || time.Since(began) < settling+idleTime {
		select {
		case line, ok := <-lines:
			if !ok {
				return l, errors.New("the guest has ended")
			}
			var n float64
			if _, err := fmt.Sscanf(line, "IOPS %f", &n); err == nil && (phase == &l.During || time.Since(began) > settling) {
				*phase = append(*phase, n)
			}
		case err := <-took:
			if err != nil {
				return l, err
			}
			began, phase, over = time.Now(), &l.Idle, true // once more, should the machine have changed
		case <-ctx.Done():
			return l, ctx.Err()
		}
		if phase == &l.Idle && !over && time.Since(began) > settling+idleTime {
			phase = &l.During
			go func() {
				j, err := p.backup(ctx, m, "--codec", "none", "--limit-upload", upload)
				l.Seconds, l.CPU = j.Seconds, j.CPU
				took <- err
			}()
		}
	}
	b.say("guest: %.0f writes a second idle, %.0f while it is backed up for %.0f s, which takes %.1f CPU-s", gauge.Of(l.Idle...).Median, gauge.Of(l.During...).Median, l.Seconds, l.CPU)
	return l, nil
}

const leastLoad = 0.8 // of idle

func judgeLoad(l load) gauge.Check {
	idle := gauge.Of(l.Idle...)
	share := gauge.Over(l.During, func(n float64) float64 { return n / idle.Median })
	total := 0.0
	for _, n := range share.All {
		total += n / float64(len(share.All))
	}
	share.Median = total // all that was done, with the bad seconds
	return gauge.Check{Name: "guest's random writes while it is backed up at " + upload + "/s, of those idle (mean)", Limit: leastLoad, Least: true, Value: share}
}
