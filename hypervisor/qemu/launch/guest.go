package launch

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/agent"
	"github.com/millrace-backup/millrace/hypervisor/qemu/host"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// ErrGone says that the guest does not run.
var ErrGone = errors.New("the guest does not run")

// ErrNoQEMU says that there is no QEMU on this machine.
var ErrNoQEMU = errors.New(Program + " is not on this machine (Debian package qemu-system-x86)")

const maxNVRAM = 64 << 20

// Guest is a guest that runs, or did. It is found by its folder alone.
type Guest struct{ folder string }

// Find returns the guest of a folder, running or not.
func Find(folder string) *Guest { return &Guest{folder} }

// QMP is the path of a socket on which others may talk to the guest's QEMU.
func (g *Guest) QMP() string { return filepath.Join(g.folder, secondName) }

// Serial is the path of what the guest wrote to its serial port.
func (g *Guest) Serial() string { return filepath.Join(g.folder, serialName) }

// Console is the path of a socket that leads into the guest's serial port.
func (g *Guest) Console() string { return filepath.Join(g.folder, consoleName) }

// Start starts a guest and returns when its QEMU answers. The process is not a child that has
// to be waited for by anybody, and outlives us.
func Start(ctx context.Context, s Spec) (*Guest, []string, error) {
	path, err := exec.LookPath(Program)
	if err != nil {
		return nil, nil, ErrNoQEMU
	}
	if err := writeNVRAM(s); err != nil {
		return nil, nil, fmt.Errorf("start guest %s: %w", s.Name, err)
	}
	args, notes := Args(s)
	log, err := os.OpenFile(filepath.Join(s.Folder, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("start guest %s: %w", s.Name, err)
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range []string{qmpName, secondName, agentName, consoleName} {
		_ = os.Remove(filepath.Join(s.Folder, name)) // of a QEMU that is gone
	}
	cmd := exec.Command(path, args...) // and not with ctx, which the guest outlives
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Folder, log, log
	host.Detach(cmd)
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start guest %s: %w", s.Name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	g := Find(s.Folder)
	for {
		if _, err := g.Status(ctx); err == nil {
			return g, notes, nil
		}
		select {
		case err := <-ended:
			return nil, notes, fmt.Errorf("start guest %s: QEMU ended (%w): %s", s.Name, errors.Join(ErrGone, err), said(log.Name(), begin))
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return nil, notes, fmt.Errorf("start guest %s: %w", s.Name, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// said is what QEMU has written to its log since an offset, the end of it.
func said(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(io.NewSectionReader(f, from, 1<<20), 1<<20))
	b = bytes.TrimSpace(b)
	return string(b[max(0, len(b)-600):])
}

// writeNVRAM makes the file of the firmware's variables, unless the guest has one from before.
func writeNVRAM(s Spec) error {
	for _, f := range s.Config.Firmware {
		path := filepath.Join(s.Folder, nvramName)
		if _, err := os.Lstat(path); len(f.Data) == 0 || err == nil {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(f.Data)), maxNVRAM+1))
		if err == nil && len(b) > maxNVRAM {
			err = fmt.Errorf("more than %d bytes", maxNVRAM)
		}
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			return fmt.Errorf("variables of the firmware: %w", err)
		}
	}
	return nil
}

// ask runs commands of QEMU's.
func (g *Guest) ask(ctx context.Context, do func(*qmp.Client) error) error {
	c, err := qmp.Dial(ctx, filepath.Join(g.folder, qmpName), qmp.Options{})
	if err != nil {
		if host.UnlessGone(err) == nil {
			return ErrGone
		}
		return err
	}
	defer c.Close()
	return do(c)
}

// Status is the guest's, in QEMU's words: running, paused, io-error, ... ErrGone if there is none.
func (g *Guest) Status(ctx context.Context) (string, error) {
	var out struct{ Status string }
	err := g.ask(ctx, func(c *qmp.Client) error { return c.Do(ctx, "query-status", nil, &out) })
	return out.Status, err
}

// PID is the process of the guest's QEMU; 0 if there is none.
func (g *Guest) PID(ctx context.Context) (pid int) {
	_ = g.ask(ctx, func(c *qmp.Client) error { pid, _ = host.Process(c.Conn()); return nil })
	return pid
}

// Continue lets a guest go on that was paused.
func (g *Guest) Continue(ctx context.Context) error {
	return g.ask(ctx, func(c *qmp.Client) error { return c.Do(ctx, "cont", nil, nil) })
}

// Stop turns a guest off: by asking it for as long as grace says, then at once. What it had
// not flushed is lost in the second case, as by a power cut. One that does not run is no error.
func (g *Guest) Stop(ctx context.Context, grace time.Duration) error {
	if grace > 0 {
		if off, err := g.ShutDown(ctx, grace); off || errors.Is(err, ErrGone) {
			return nil
		}
	}
	err := g.ask(ctx, func(c *qmp.Client) error {
		err := c.Do(ctx, "quit", nil, nil)
		if errors.Is(err, qmp.ErrClosed) {
			return nil
		}
		return err
	})
	if errors.Is(err, ErrGone) || err == nil && g.gone(ctx, 20*time.Second) {
		return nil
	}
	return fmt.Errorf("stop guest in %s: %w", g.folder, errors.Join(err, ctx.Err()))
}

// ShutDown asks a guest to shut down, and reports whether it has, within grace. ErrGone if it did
// not run.
func (g *Guest) ShutDown(ctx context.Context, grace time.Duration) (bool, error) {
	err := g.ask(ctx, func(c *qmp.Client) error { return c.Do(ctx, "system_powerdown", nil, nil) })
	return err == nil && g.gone(ctx, grace), err
}

// gone waits until the guest's QEMU has ended.
func (g *Guest) gone(ctx context.Context, most time.Duration) bool {
	for end := time.Now().Add(most); time.Now().Before(end) && ctx.Err() == nil; {
		if _, err := g.Status(ctx); errors.Is(err, ErrGone) {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// Screenshot writes what the guest's screen shows to a PNG file.
func (g *Guest) Screenshot(ctx context.Context, path string) error {
	return g.ask(ctx, func(c *qmp.Client) error {
		return c.Do(ctx, "screendump", map[string]any{"filename": path, "format": "png"}, nil)
	})
}

// Ready is how it is told that a guest has come up: whichever comes first.
type Ready struct {
	Serial *regexp.Regexp // a line on its serial port
	Agent  bool           // its agent answers
}

// Await waits for a guest to come up and says by what it was told. ErrGone if it ends before.
func (g *Guest) Await(ctx context.Context, r Ready) (string, error) {
	for {
		if r.Serial != nil {
			if text, err := os.ReadFile(g.Serial()); err == nil {
				if line := r.Serial.Find(text[max(0, len(text)-1<<20):]); line != nil {
					return "serial: " + strings.TrimSpace(string(line)), nil
				}
			}
		}
		if r.Agent {
			try, cancel := context.WithTimeout(ctx, time.Second)
			c, err := agent.Dial(try, filepath.Join(g.folder, agentName))
			cancel()
			if err == nil {
				_ = c.Close()
				return "agent", nil
			}
		}
		if _, err := g.Status(ctx); errors.Is(err, ErrGone) {
			return "", fmt.Errorf("wait for the guest: %w", err)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the guest: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
