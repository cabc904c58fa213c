package gauge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Cost is what something took. Memory is the most that all processes had together,
// shared pages counted once, looked at four times a second; 0 if they ended sooner.
type Cost struct {
	Seconds    float64 `json:"seconds"`
	CPU        float64 `json:"cpu_s"`
	Memory     int64   `json:"memory_bytes,omitempty"`
	LargestRSS int64   `json:"largest_rss_bytes,omitempty"`
}

// Run runs a program to its end and returns what it wrote to its standard output. env
// is added to the environment of this process. An error carries what the program
// said last.
func Run(ctx context.Context, dir string, env, args []string) ([]byte, Cost, error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env, c.Dir = append(os.Environ(), env...), dir
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = time.Minute
	start := time.Now()
	if err := c.Start(); err != nil {
		return nil, Cost{}, err
	}
	memory := watchMemory(c.Process.Pid)
	err := c.Wait()
	took := time.Since(start)
	peak := memory()
	if err != nil {
		return nil, Cost{}, fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, tail(out.Bytes()), tail(complaint.Bytes()))
	}
	cpu := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	return out.Bytes(), Cost{Seconds: took.Seconds(), CPU: cpu.Seconds(), Memory: peak, LargestRSS: largestRSS(c.ProcessState)}, nil
}

func tail(text []byte) string { return string(text[max(0, len(text)-600):]) }

// Spent calls f and says what this process, and children waited for, took meanwhile.
func Spent(f func() error) (Cost, error) {
	own, children := spent()
	start := time.Now()
	err := f()
	took := time.Since(start)
	own2, children2 := spent()
	return Cost{Seconds: took.Seconds(), CPU: (own2 - own + children2 - children).Seconds()}, err
}

// Clock is the processor time this process has used so far, for many short measurements.
func Clock() time.Duration {
	own, _ := spent()
	return own
}

// Program is a Millrace with a vault and a state directory of its own, in Folder.
type Program struct {
	Path   string
	Folder string
}

const password = "measured, not kept"

// Env is how the program is told where its vault is. What the environment of this
// process may say of another vault does not count.
func (p Program) Env() []string {
	return []string{
		"MILLRACE_VAULT=" + p.Vault(), "MILLRACE_STATE=" + filepath.Join(p.Folder, "state"), "MILLRACE_PASSWORD_COMMAND=echo " + password,
		"MILLRACE_PASSWORD_FILE=", "MILLRACE_NATS=", "MILLRACE_CONFIG=",
	}
}

// Vault is where it keeps what it stores.
func (p Program) Vault() string { return filepath.Join(p.Folder, "vault") }

// Init makes folder and vault anew.
func (p Program) Init(ctx context.Context) error {
	if err := p.Remove(); err != nil {
		return err
	}
	if err := os.MkdirAll(p.Folder, 0o700); err != nil {
		return err
	}
	_, _, err := p.Run(ctx, "init", "--quiet")
	return err
}

// Run runs one of its commands.
func (p Program) Run(ctx context.Context, args ...string) ([]byte, Cost, error) {
	return Run(ctx, p.Folder, p.Env(), append([]string{p.Path}, args...))
}

// Remove removes the folder.
func (p Program) Remove() error { return os.RemoveAll(p.Folder) }

// Metadata is how many bytes a vault in a folder has besides chunks: tables, ledger
// and checkpoints, as the files are long.
func Metadata(vault string) (total int64, err error) {
	for _, kind := range []string{"tables", "ledger", "checkpoints"} {
		err := filepath.WalkDir(filepath.Join(vault, kind), func(_ string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				total += info.Size()
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return total, nil
}
