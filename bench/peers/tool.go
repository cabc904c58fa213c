package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// tool is one program and how it is called.
type tool struct {
	name     string
	home     string // its caches and settings, so that the user's own stay as they are
	repo     string // what it stores to
	target   string // where it restores to
	restored string // the image there
	env      []string
	init     []string
	backup   []string
	restore  []string
}

const password = "measured, not kept"

// tools describes the three; only some may be installed.
func tools(millrace, base, image string) []*tool {
	at := func(parts ...string) string { return filepath.Join(append([]string{base}, parts...)...) }
	all := []*tool{
		{
			name: "millrace", restored: at("millrace", "out", "image.raw"),
			env:     []string{"MILLRACE_VAULT=" + at("millrace", "repo"), "MILLRACE_STATE=" + at("millrace", "home"), "MILLRACE_PASSWORD_COMMAND=echo " + password},
			init:    []string{millrace, "init", "--quiet"},
			backup:  []string{millrace, "backup", "--quiet", image},
			restore: []string{millrace, "restore", "latest", "--quiet", "--to", at("millrace", "out", "image.raw")},
		},
		{
			name: "restic", restored: at("restic", "out", image),
			env:     []string{"RESTIC_REPOSITORY=" + at("restic", "repo"), "RESTIC_PASSWORD=" + password, "RESTIC_CACHE_DIR=" + at("restic", "home")},
			init:    []string{"restic", "init", "--quiet"},
			backup:  []string{"restic", "backup", "--quiet", image},
			restore: []string{"restic", "restore", "latest", "--quiet", "--target", at("restic", "out")},
		},
		{
			name: "borg", restored: at("borg", "out", image),
			env:     []string{"BORG_REPO=" + at("borg", "repo"), "BORG_PASSPHRASE=" + password, "BORG_BASE_DIR=" + at("borg", "home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=no"},
			init:    []string{"borg", "init", "--encryption=repokey-blake2"},
			backup:  []string{"borg", "create", "--compression", "lz4", "::{now:%Y%m%d%H%M%S%f}", image},
			restore: nil, // needs the archive's name; see call
		},
	}
	for _, t := range all {
		t.home, t.repo, t.target = at(t.name, "home"), at(t.name, "repo"), at(t.name, "out")
	}
	return all
}

// run does one phase and, after a restore, compares what came back.
func (t *tool) run(ctx context.Context, phase, image string) (result, error) {
	before, err := used(t.repo)
	if err != nil {
		return result{}, err
	}
	args := t.backup
	if phase == "restore" {
		if args, err = t.restoreArgs(ctx); err != nil {
			return result{}, err
		}
	}
	r, err := t.call(ctx, args, t.target)
	if err != nil {
		return result{}, err
	}
	r.Phase = phase
	after, err := used(t.repo)
	if err != nil {
		return result{}, err
	}
	r.Stored = after - before
	if phase == "restore" {
		err = same(image, t.restored)
	}
	return r, err
}

// restoreArgs is the command that restores the newest backup.
func (t *tool) restoreArgs(ctx context.Context) ([]string, error) {
	if t.restore != nil {
		return t.restore, nil
	}
	c := exec.CommandContext(ctx, "borg", "list", "--last", "1", "--short")
	c.Env = append(os.Environ(), t.env...)
	name, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("list archives: %w", err)
	}
	return []string{"borg", "extract", "--sparse", "::" + strings.TrimSpace(string(name))}, nil
}

// call runs the program and measures it.
func (t *tool) call(ctx context.Context, args []string, dir string) (result, error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env, c.Dir = append(os.Environ(), t.env...), dir
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	start := time.Now()
	err := c.Run()
	took := time.Since(start)
	if err != nil {
		return result{}, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	cpu := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	return result{Tool: t.name, Seconds: took.Seconds(), CPU: cpu.Seconds()}, nil
}

// used adds up the sizes of all files in a folder; none for a folder that is not
// there yet.
func used(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
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
