// Package qemutest starts real QEMUs for tests: guests with disks and without an
// operating system, into whose disks the test writes as the guest would.
//
// [Start] starts one, [VM.Write] writes, [VM.Left] says what somebody has left in it. The
// socket that a driver is to use is [VM.Socket]; the test has another for itself, as QEMU
// talks with one at a time. Without QEMU tests are skipped.
package qemutest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// VM is a QEMU that runs.
type VM struct {
	Socket string // of the QMP that is for the driver
	PID    int
	t      testing.TB
	cmd    *exec.Cmd
	ended  chan struct{}
	out    *bytes.Buffer
	own    *qmp.Client // a QMP of the test's own
	folder string
}

// Disk is a disk of a VM. Its name is that of its drive.
type Disk struct {
	Name, Path, Format string
}

// binary is what is started.
const binary = "qemu-system-x86_64"

// Start starts a QEMU with these disks and further arguments, and ends it with the test.
// Without QEMU the test is skipped.
func Start(t testing.TB, disks []Disk, more ...string) *VM {
	t.Helper()
	if _, err := exec.LookPath(binary); err != nil {
		t.Skipf("%s is not installed", binary)
	}
	v, err := Launch(disks, more...)
	if err != nil {
		t.Fatal(err)
	}
	v.t = t
	t.Cleanup(v.Kill)
	return v
}

// Launch is Start outside of a test: Kill ends it. Methods that fail a test are not for
// such a VM.
func Launch(disks []Disk, more ...string) (*VM, error) {
	folder, err := os.MkdirTemp("", "qemu") // a socket's path must be short
	if err != nil {
		return nil, err
	}
	v := &VM{Socket: filepath.Join(folder, "qmp"), folder: folder, out: &bytes.Buffer{}, ended: make(chan struct{})}
	args := []string{
		"-machine", "q35,accel=tcg", "-m", "32", "-nodefaults", "-display", "none", "-name", "guest", "-uuid", "11111111-2222-4333-8444-555555555555",
		"-qmp", "unix:" + v.Socket + ",server=on,wait=off", "-qmp", "unix:" + v.Socket + "2,server=on,wait=off",
	}
	for n, d := range disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,file=%s,format=%s,discard=unmap", d.Name, strings.ReplaceAll(d.Path, ",", ",,"), d.Format),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,id=dev%d", d.Name, n))
	}
	v.cmd = exec.Command(binary, append(args, more...)...)
	v.cmd.Stdout, v.cmd.Stderr = io.Discard, v.out
	if err := v.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	v.PID = v.cmd.Process.Pid
	go func() { _ = v.cmd.Wait(); close(v.ended) }()
	if err := v.dial(); err != nil {
		v.Kill()
		return nil, err
	}
	return v, nil
}

func (v *VM) dial() (err error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if v.own, err = qmp.Dial(context.Background(), v.Socket+"2", qmp.Options{}); err == nil {
			return nil
		}
		select {
		case <-v.ended:
			return fmt.Errorf("QEMU has ended: %s", v.out)
		default:
		}
	}
	return fmt.Errorf("QEMU does not answer: %w", err)
}

// Kill ends the QEMU at once, as kill -9 does.
func (v *VM) Kill() {
	_ = v.cmd.Process.Kill()
	<-v.ended
	if v.own != nil {
		_ = v.own.Close()
	}
	_ = os.RemoveAll(v.folder)
}

// Quit ends the QEMU as it should end.
func (v *VM) Quit() {
	v.t.Helper()
	v.Do("quit", nil, nil)
	<-v.ended
	_ = v.own.Close()
}

// Do runs a command, which must succeed.
func (v *VM) Do(command string, args, out any) {
	v.t.Helper()
	if err := v.Try(command, args, out); err != nil {
		v.t.Fatal(err)
	}
}

// Try runs a command.
func (v *VM) Try(command string, args, out any) error {
	return v.own.Do(context.Background(), command, args, out)
}

// IO has a drive do what a line of qemu-io says, as a request of the guest.
func (v *VM) IO(drive, line string) error {
	var said string
	err := v.Try("human-monitor-command", map[string]string{"command-line": "qemu-io " + drive + " " + strconv.Quote(line)}, &said)
	if err == nil && said != "" {
		err = errors.New(said)
	}
	return err
}

// Write writes bytes to a drive as its guest would.
func (v *VM) Write(drive string, off int64, b []byte) error {
	path := filepath.Join(v.folder, "bytes")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	return v.IO(drive, fmt.Sprintf("write -s %s %d %d", path, off, len(b)))
}

// Left lists what a program of ours has left in the QEMU but for bitmaps: nodes, exports
// and open files, and that the guest does not run.
func (v *VM) Left() []string {
	v.t.Helper()
	left, err := v.Remains()
	if err != nil {
		v.t.Fatal(err)
	}
	return left
}

// Remains is Left outside of a test.
func (v *VM) Remains() (left []string, err error) { return Remains(v.Try) }

// Remains is Left of any QEMU, which ask runs a command in.
func Remains(ask func(command string, args, out any) error) (left []string, err error) {
	var nodes []struct {
		Name string `json:"node-name"`
	}
	var exports []struct{ ID string }
	var sets []any
	var status struct{ Status string }
	err = errors.Join(ask("query-named-block-nodes", map[string]bool{"flat": true}, &nodes), ask("query-block-exports", nil, &exports),
		ask("query-fdsets", nil, &sets), ask("query-status", nil, &status))
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, "millrace-") {
			left = append(left, n.Name)
		}
	}
	for _, e := range exports {
		left = append(left, "export "+e.ID)
	}
	if len(sets) > 0 {
		left = append(left, fmt.Sprint(sets...))
	}
	if status.Status != "running" {
		left = append(left, "the guest is "+status.Status)
	}
	return left, err
}

// Bitmaps lists the dirty bitmaps of all nodes, as NODE/NAME.
func (v *VM) Bitmaps() []string {
	v.t.Helper()
	out, err := v.AllBitmaps()
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// AllBitmaps is Bitmaps outside of a test.
func (v *VM) AllBitmaps() (out []string, err error) {
	var nodes []struct {
		Name    string `json:"node-name"`
		Bitmaps []struct {
			Name string
		} `json:"dirty-bitmaps"`
	}
	err = v.Try("query-named-block-nodes", map[string]bool{"flat": true}, &nodes)
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			out = append(out, n.Name+"/"+b.Name)
		}
	}
	return out, err
}

// Image makes a disk image of a format and a size, with b at its beginning.
func Image(t testing.TB, format string, size int64, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk."+format)
	raw, err := os.CreateTemp(t.TempDir(), "raw")
	if err == nil {
		_, err = io.Copy(raw, bytes.NewReader(b))
	}
	if err == nil {
		err = errors.Join(raw.Truncate(size), raw.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if format == "raw" {
		return raw.Name()
	}
	exe, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	if said, err := exec.Command(exe, "convert", "-f", "raw", "-O", format, raw.Name(), path).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, said)
	}
	return path
}
