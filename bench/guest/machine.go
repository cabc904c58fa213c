package guest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// Disk is an image that a machine has; the first is the one it boots from.
type Disk struct{ Path, Format string }

// Machine is a guest that runs. It is for one goroutine.
type Machine struct {
	QMP   string // path of the socket; it serves one client at a time
	Other string // of another one
	Agent string // of the socket that leads to the guest agent

	args      []string
	cmd       *exec.Cmd
	keyboard  io.WriteCloser
	said      chan string // lines of the console
	complaint *bytes.Buffer
	folder    string
	marks     int
}

const qemu = "qemu-system-x86_64"

// Run starts a guest with these disks, the drives of which are called disk0, disk1 and so
// on, and returns when it is ready. Stop ends it, and so does the end of ctx.
func Run(ctx context.Context, disks ...Disk) (*Machine, error) {
	if err := require(qemu, "qemu-system-x86"); err != nil {
		return nil, fmt.Errorf("run a guest: %w", err)
	}
	folder, err := os.MkdirTemp("", "guest") // a socket's path must be short
	if err != nil {
		return nil, err
	}
	m := &Machine{folder: folder, QMP: filepath.Join(folder, "qmp"), Other: filepath.Join(folder, "qmp2"), Agent: filepath.Join(folder, "agent")}
	m.args = []string{
		"-machine", "pc,accel=tcg", "-m", "256", "-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-name", "guest",
		"-qmp", "unix:" + m.QMP + ",server=on,wait=off", "-qmp", "unix:" + m.Other + ",server=on,wait=off",
		"-device", "virtio-serial", "-chardev", "socket,id=agent,path=" + m.Agent + ",server=on,wait=off", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
	}
	for n, d := range disks {
		m.args = append(m.args, "-drive", fmt.Sprintf("if=none,id=disk%d,discard=unmap,format=%s,file=%s", n, d.Format, strings.ReplaceAll(d.Path, ",", ",,")),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,bootindex=%d", n, n+1))
	}
	if err := m.Again(ctx); err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

// Again starts a guest that has been turned off: a new QEMU with the same disks and
// sockets.
func (m *Machine) Again(ctx context.Context) error {
	m.cmd, m.complaint = exec.CommandContext(ctx, qemu, m.args...), &bytes.Buffer{}
	m.cmd.WaitDelay = 5 * time.Second
	m.cmd.Stderr = m.complaint
	console, err := m.cmd.StdoutPipe()
	if err == nil {
		m.keyboard, err = m.cmd.StdinPipe()
	}
	if err == nil {
		err = m.cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("run a guest: %w", err)
	}
	said := make(chan string, 4096)
	m.said = said
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(console); lines.Scan(); {
			said <- lines.Text()
		}
	}()
	return m.ready(ctx)
}

// ready waits until the guest says that it is.
func (m *Machine) ready(ctx context.Context) error {
	var last string
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("run a guest: %w: %w: %s", ErrNotReady, ctx.Err(), last)
		case line, ok := <-m.said:
			if !ok {
				return fmt.Errorf("run a guest: %w: it has ended: %s%s", ErrNotReady, last, tail(m.complaint.Bytes()))
			}
			if _, found, err := readiness(line); found {
				return err
			}
			if line = strings.TrimSpace(line); line != "" {
				last = line
			}
		}
	}
}

// Command asks QEMU for something, through the other socket.
func (m *Machine) Command(ctx context.Context, command string, args, out any) error {
	c, err := qmp.Dial(ctx, m.Other, qmp.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Do(ctx, command, args, out)
}

// Reset does what the button does, and returns when the guest is ready again.
func (m *Machine) Reset(ctx context.Context) error {
	if err := m.Command(ctx, "system_reset", nil, nil); err != nil {
		return err
	}
	return m.ready(ctx)
}

// PowerOff has the guest turn itself off, upon which QEMU ends in order.
func (m *Machine) PowerOff() error {
	if _, err := io.WriteString(m.keyboard, "sync; poweroff -f\n"); err != nil {
		return fmt.Errorf("turn off guest: %w", err)
	}
	for range m.said {
		continue
	}
	if err := m.cmd.Wait(); err != nil {
		return fmt.Errorf("turn off guest: %w: %s", err, tail(m.complaint.Bytes()))
	}
	return nil
}

// AwaitAgent waits until an agent in the guest has opened its port.
func (m *Machine) AwaitAgent(ctx context.Context) error {
	for {
		var ports []struct {
			Label string
			Open  bool `json:"frontend-open"`
		}
		if err := m.Command(ctx, "query-chardev", nil, &ports); err != nil {
			return fmt.Errorf("wait for the guest agent: %w", err)
		}
		for _, p := range ports {
			if p.Label == "agent" && p.Open {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the guest agent: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Shell runs a command in the guest and returns what it prints. An exit code other than 0
// is an error.
func (m *Machine) Shell(ctx context.Context, command string) (string, error) {
	m.marks++
	mark := fmt.Sprintf("END-OF-%d", m.marks)
	// The echo of what is typed has the mark in two parts, what it prints has it in one.
	if _, err := fmt.Fprintf(m.keyboard, "%s; echo $?-END-OF''-%d\n", command, m.marks); err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	var out []string
	for {
		select {
		case <-ctx.Done():
			return strings.Join(out, "\n"), fmt.Errorf("guest: %s: %w; it said %q", command, ctx.Err(), out)
		case line, ok := <-m.said:
			if !ok {
				return "", fmt.Errorf("guest: %s: it has ended: %s", command, tail(m.complaint.Bytes()))
			}
			line = strings.TrimRight(line, "\r")
			before, code, _ := cutLast(line, "-"+mark)
			if code == "" {
				if !strings.Contains(line, "END-OF''") {
					out = append(out, line)
				}
				continue
			}
			if before != "" {
				out = append(out, before)
			}
			text := strings.Join(out, "\n")
			if code != "0" {
				return text, fmt.Errorf("guest: %s: exit code %s: %s", command, code, text)
			}
			return text, nil
		}
	}
}

// cutLast finds CODE-END-OF-N at the end of a line.
func cutLast(line, mark string) (before, code string, ok bool) {
	rest, ok := strings.CutSuffix(line, mark)
	if !ok {
		return "", "", false
	}
	i := len(rest)
	for i > 0 && rest[i-1] >= '0' && rest[i-1] <= '9' {
		i--
	}
	return rest[:i], rest[i:], true
}

// Stop ends the guest at once, as a power cut does.
func (m *Machine) Stop() {
	if m.cmd.Process != nil {
		_ = m.cmd.Process.Kill()
		for range m.said { // it may be waiting to tell us more
			continue
		}
		_ = m.cmd.Wait()
	}
	_ = os.RemoveAll(m.folder)
}
