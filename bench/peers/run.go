package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/gauge"
)

// init makes the program's folders and its repository anew.
func (p *place) init(ctx context.Context) error {
	if err := os.RemoveAll(filepath.Dir(p.repo)); err != nil {
		return err
	}
	for _, dir := range []string{p.repo, p.home, p.out} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if _, _, err := gauge.Run(ctx, p.home, p.fill("", p.Env...), p.fill("", p.Init...)); err != nil {
		return fmt.Errorf("%s, init: %w", p.Name, err)
	}
	return nil
}

// run does one phase and, after a restore, compares what came back and removes it.
func (p *place) run(ctx context.Context, phase string) (Result, error) {
	r := Result{Tool: p.Name, Phase: phase}
	stored, meta, err := p.grown()
	if err != nil {
		return r, err
	}
	var out []byte
	if out, r.Cost, err = gauge.Run(ctx, p.out, p.fill(phase, p.Env...), p.fill(phase, p.command(phase)...)); err != nil {
		return r, err
	}
	if p.Name == own && phase != restore {
		if err := audit(out, r.Cost); err != nil {
			return r, err
		}
	}
	if r.Stored, r.Metadata, err = p.grown(); err != nil {
		return r, err
	}
	r.Stored, r.Metadata = r.Stored-stored, r.Metadata-meta
	if phase == restore {
		restored := p.fill(phase, p.Restored)[0]
		if r.Allocated, err = gauge.DiskUsage(restored); err != nil {
			return r, err
		}
		err = errors.Join(same(p.image, restored), os.Remove(restored))
	}
	return r, err
}

// grown is the size of the repository, and of what Millrace's has besides chunks.
func (p *place) grown() (stored, meta int64, err error) {
	if stored, err = gauge.DiskUsage(p.repo); err != nil || p.Name != own {
		return stored, 0, err
	}
	meta, err = gauge.Metadata(p.repo)
	return stored, meta, err
}

// audit holds the kernel's account of Millrace's processes against what its
// conductor says its workers took: they are children of the conductor and waited
// for, so the kernel's must be the larger.
func audit(out []byte, c gauge.Cost) error {
	s, err := gauge.ParseSummary(out)
	if err != nil {
		return err
	}
	if s.WorkerCPU <= 0 || s.WorkerCPU > c.CPU {
		return fmt.Errorf("the workers say %.2f CPU seconds, the kernel %.2f for all processes", s.WorkerCPU, c.CPU)
	}
	return nil
}

// same compares two files.
func same(a, b string) error {
	x, err := os.Open(a)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return err
	}
	defer y.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(p)) {
		n, errX := io.ReadFull(x, p)
		m, errY := io.ReadFull(y, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return fmt.Errorf("%s and %s differ in the MiB at %d", a, b, at)
		}
		if errX != nil || errY != nil {
			if errors.Is(errX, io.EOF) || errors.Is(errX, io.ErrUnexpectedEOF) {
				return nil
			}
			return errors.Join(errX, errY)
		}
	}
}

// copySparse copies an image with its holes.
func copySparse(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}
