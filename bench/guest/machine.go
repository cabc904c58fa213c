package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Disk is an image that a machine has; the first is the one it boots from.
type Disk struct{ Path, Format string }

// Machine is a guest that runs.
type Machine struct {
	QMP   string // path of the socket; it serves one client at a time
	Other string // of another one
	Agent string // of the socket that leads to the guest agent

	cmd       *exec.Cmd
	keyboard  io.WriteCloser
	said      chan string // lines of the console
	complaint bytes.Buffer
	folder    string
	marks     int
}

// Run starts a guest with these disks, the drives of which are called disk0, disk1 and so
// on, and returns when it is ready. Stop ends it, and so does the end of ctx.
func Run(ctx context.Context, disks ...Disk) (*Machine, error) {
	const qemu = "qemu-system-x86_64"
	if err := require(qemu, "qemu-system-x86"); err != nil {
		return nil, fmt.Errorf("run a guest: %w", err)
	}
	folder, err := os.MkdirTemp("", "guest") // a socket's path must be short
	if err != nil {
		return nil, err
	}
	m := &Machine{folder: folder, QMP: filepath.Join(folder, "qmp"), Other: filepath.Join(folder, "qmp2"), Agent: filepath.Join(folder, "agent"), said: make(chan string, 4096)}
	args := []string{
		"-machine", "pc,accel=tcg", "-m", "256", "-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-name", "guest",
		"-qmp", "unix:" + m.QMP + ",server=on,wait=off", "-qmp", "unix:" + m.Other + ",server=on,wait=off",
		"-device", "virtio-serial", "-chardev", "socket,id=agent,path=" + m.Agent + ",server=on,wait=off", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
	}
	for n, d := range disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=disk%d,discard=unmap,format=%s,file=%s", n, d.Format, strings.ReplaceAll(d.Path, ",", ",,")),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,bootindex=%d", n, n+1))
	}
	m.cmd = exec.CommandContext(ctx, qemu, args...)
	m.cmd.WaitDelay = 5 * time.Second
	m.cmd.Stderr = &m.complaint
	console, err := m.cmd.StdoutPipe()
	if err == nil {
		m.keyboard, err = m.cmd.StdinPipe()
	}
	if err == nil {
		err = m.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	ready, said, err := await(console)
	_ = ready
	if err != nil {
		m.Stop()
		return nil, fmt.Errorf("run a guest: %w: %w: %s%s", ErrNotReady, errors.Join(err, ctx.Err()), tail(said), tail(m.complaint.Bytes()))
	}
	go func() {
		defer close(m.said)
		for lines := bufio.NewScanner(console); lines.Scan(); {
			m.said <- lines.Text()
		}
	}()
	return m, nil
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
	_ = m.cmd.Process.Kill()
	if m.said != nil {
		go func() { // it may be waiting to tell us more
			for range m.said {
				continue
			}
		}()
	}
	_ = m.cmd.Wait()
	_ = os.RemoveAll(m.folder)
}
