package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-backup/millrace/blockdev/nbd"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// disk is a disk of a machine. Its node in QEMU is called as it is.
type disk struct {
	name, path, format string
}

// create makes the image of a disk, empty.
func create(ctx context.Context, folder, name, format string, size int64) (disk, error) {
	d := disk{name, filepath.Join(folder, name+"."+format), format}
	if err := os.RemoveAll(d.path); err != nil {
		return d, err
	}
	said, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", format, d.path, strconv.FormatInt(size, 10)).CombinedOutput()
	if err != nil {
		return d, fmt.Errorf("make a disk of %d bytes: %w: %s", size, err, said)
	}
	return d, nil
}

// machine is a QEMU that runs.
type machine struct {
	socket  string // for Millrace
	console io.ReadWriter
	folder  string
	disks   []disk
	cmd     *exec.Cmd
	own     *qmp.Client
}

// start starts a QEMU with disks, whose guest has nothing to do but what more says.
func start(ctx context.Context, disks []disk, more ...string) (*machine, error) {
	folder, err := os.MkdirTemp("", "running") // a socket's path must be short
	if err != nil {
		return nil, err
	}
	m := &machine{socket: filepath.Join(folder, "qmp"), folder: folder, disks: disks}
	args := []string{
		"-machine", "q35,accel=tcg", "-nodefaults", "-display", "none", "-name", "running", "-uuid", "11111111-2222-4333-8444-555555555555",
		"-qmp", "unix:" + m.socket + ",server=on,wait=off", "-qmp", "unix:" + m.socket + "2,server=on,wait=off",
	}
	for _, d := range disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,node-name=node-%s,file=%s,format=%s,discard=unmap", d.name, d.name, d.path, d.format),
			// Shared, so that the benchmark may write to it beside the guest.
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,id=dev-%s,share-rw=on", d.name, d.name))
	}
	m.cmd = exec.Command("qemu-system-x86_64", append(args, more...)...)
	complaint := &bytes.Buffer{}
	m.cmd.Stderr = complaint
	if err := m.serial(more); err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		m.own, err = qmp.Dial(ctx, m.socket+"2", qmp.Options{Command: 5 * time.Minute})
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			m.stop()
			return nil, fmt.Errorf("QEMU does not answer: %w: %s", err, complaint)
		}
	}
}

// serial connects the guest's console, if it has one.
func (m *machine) serial(more []string) error {
	if !strings.Contains(strings.Join(more, " "), "-serial stdio") {
		return nil
	}
	in, err := m.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := m.cmd.StdoutPipe()
	m.console = struct {
		io.Reader
		io.Writer
	}{out, in}
	return err
}

// stop ends the QEMU at once.
func (m *machine) stop() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	if m.own != nil {
		_ = m.own.Close()
	}
	_ = os.RemoveAll(m.folder)
}

// cpu is the processor time that the QEMU has used so far, in seconds; 0 where the system
// does not tell.
func (m *machine) cpu() float64 {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	// The second field, in brackets, may hold anything; the 14th and 15th are in hundredths.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100
}

// do runs a command of QMP.
func (m *machine) do(ctx context.Context, command string, args any) error {
	return m.own.Do(ctx, command, args, nil)
}

// io has a drive do what a line of qemu-io says, as a request of its guest: also while it
// is backed up.
func (m *machine) io(ctx context.Context, drive, line string) error {
	var said string
	err := m.own.Do(ctx, "human-monitor-command", map[string]string{"command-line": "qemu-io " + drive + " " + strconv.Quote(line)}, &said)
	if err == nil && said != "" {
		err = errors.New(said)
	}
	return err
}

// write calls f with a way to write to a disk's node. All of it goes through QEMU, whose
// bitmaps see it; it is by NBD, as a command of QMP for each write takes a millisecond.
// There must be no job meanwhile: QEMU has one NBD server.
func (m *machine) write(ctx context.Context, d disk, f func(w *writer) error) (err error) {
	path := filepath.Join(m.folder, "nbd")
	if err := m.do(ctx, "nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]string{"path": path}}}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.do(ctx, "nbd-server-stop", nil)) }()
	export := map[string]any{"type": "nbd", "id": "running", "node-name": "node-" + d.name, "name": "running", "writable": true}
	if err := m.do(ctx, "block-export-add", export); err != nil {
		return err
	}
	dial := func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) }
	c, err := nbd.Dial(ctx, dial, nbd.Options{Export: "running"})
	if err != nil {
		return err
	}
	w := &writer{c: c}
	w.g.SetLimit(16) // QEMU does no more at once
	err = f(w)
	return errors.Join(err, w.g.Wait(), c.Close())
}

// writer writes to a disk, many requests at a time.
type writer struct {
	c *nbd.Client
	g errgroup.Group
}

// at writes bytes, which may be used again when it returns. What comes of it is known at the end.
func (w *writer) at(off int64, b []byte) {
	b = bytes.Clone(b)
	w.g.Go(func() error {
		_, err := w.c.WriteAt(b, off)
		return err
	})
}
