package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	phases   map[string][]string
}

// phases in their order.
func phases() []string { return []string{"full", "unchanged", "reread", "changed", "restore"} }

const password = "measured, not kept"

// tools describes the three; only some may be installed.
func tools(millrace, base, image string) []*tool {
	at := func(parts ...string) string { return filepath.Join(append([]string{base}, parts...)...) }
	ours := []string{millrace, "backup", "--json", image}
	restic := []string{"restic", "backup", "--quiet", image}
	borg := func(name string, more ...string) []string {
		return append(append([]string{"borg", "create", "--compression", "lz4"}, more...), "::"+name, image)
	}
	all := []*tool{
		{
			name: "millrace", restored: at("millrace", "out", "image.raw"),
			env:  []string{"MILLRACE_VAULT=" + at("millrace", "repo"), "MILLRACE_STATE=" + at("millrace", "home"), "MILLRACE_PASSWORD_COMMAND=echo " + password},
			init: []string{millrace, "init", "--quiet"},
			phases: map[string][]string{
				"full": ours, "unchanged": ours, "reread": ours, "changed": ours,
				"restore": {millrace, "restore", "latest", "--quiet", "--to", at("millrace", "out", "image.raw")},
			},
		},
		{
			name: "restic", restored: at("restic", "out", image),
			env:  []string{"RESTIC_REPOSITORY=" + at("restic", "repo"), "RESTIC_PASSWORD=" + password, "RESTIC_CACHE_DIR=" + at("restic", "home")},
			init: []string{"restic", "init", "--quiet"},
			phases: map[string][]string{
				"full": restic, "unchanged": restic, "reread": append(restic[:len(restic):len(restic)], "--force"), "changed": restic,
				"restore": {"restic", "restore", "latest", "--quiet", "--target", at("restic", "out")},
			},
		},
		{
			name: "borg", restored: at("borg", "out", image),
			env:  []string{"BORG_REPO=" + at("borg", "repo"), "BORG_PASSPHRASE=" + password, "BORG_BASE_DIR=" + at("borg", "home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=no"},
			init: []string{"borg", "init", "--encryption=repokey-blake2"},
			phases: map[string][]string{
				"full": borg("full"), "unchanged": borg("unchanged"), "reread": borg("reread", "--files-cache=disabled"), "changed": borg("changed"),
				"restore": {"borg", "extract", "--sparse", "::changed"},
			},
		},
	}
	for _, t := range all {
		t.home, t.repo, t.target = at(t.name, "home"), at(t.name, "repo"), at(t.name, "out")
	}
	return all
}

// run does one phase and, after a restore, compares what came back and removes it.
func (t *tool) run(ctx context.Context, phase, image string) (result, error) {
	before, err := diskUsage(t.repo)
	if err != nil {
		return result{}, err
	}
	r, err := t.call(ctx, t.phases[phase], t.target)
	if err != nil {
		return result{}, err
	}
	r.Phase = phase
	after, err := diskUsage(t.repo)
	if err != nil {
		return result{}, err
	}
	r.Stored = after - before
	if phase == "restore" {
		err = errors.Join(same(image, t.restored), os.Remove(t.restored))
	}
	return r, err
}

// call runs the program and measures it.
func (t *tool) call(ctx context.Context, args []string, dir string) (result, error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env, c.Dir = append(os.Environ(), t.env...), dir
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = time.Minute
	start := time.Now()
	if err := c.Start(); err != nil {
		return result{}, err
	}
	memory := watchMemory(c.Process.Pid)
	err := c.Wait()
	took := time.Since(start)
	peak := memory()
	if err != nil {
		return result{}, fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, tail(out.Bytes()), tail(complaint.Bytes()))
	}
	cpu := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	r := result{Tool: t.name, Seconds: took.Seconds(), CPU: cpu.Seconds(), Memory: peak, LargestRSS: largestRSS(c.ProcessState)}
	return r, t.audit(out.Bytes(), r)
}

// audit holds the kernel's account of Millrace's processes against what its
// conductor says its workers took: they are children of the conductor and waited
// for, so the kernel's must be the larger.
func (t *tool) audit(out []byte, r result) error {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var s struct {
		Type string
		CPU  float64 `json:"cpu_s"`
	}
	if t.name != "millrace" || json.Unmarshal(lines[len(lines)-1], &s) != nil || s.Type != "summary" {
		return nil
	}
	if s.CPU <= 0 || s.CPU > r.CPU {
		return fmt.Errorf("the workers say %.2f CPU seconds, the kernel %.2f for all processes", s.CPU, r.CPU)
	}
	return nil
}

func tail(text []byte) string { return string(text[max(0, len(text)-600):]) }

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
