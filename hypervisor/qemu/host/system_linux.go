package host

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Unnamed makes a file without a name, of a size and without data.
func Unnamed(folder string, size int64) (*os.File, error) {
	fd, err := unix.Open(folder, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	var f *os.File
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) { // some network file systems
		if f, err = os.CreateTemp(folder, "fleece-*"); err == nil {
			err = os.Remove(f.Name())
		}
	} else if err == nil {
		f = os.NewFile(uintptr(fd), filepath.Join(folder, "fleece"))
	}
	if err == nil {
		if err = f.Truncate(size); err != nil {
			_ = f.Close()
		}
	}
	return f, err
}

// inFolder calls with a path to a socket that is short enough for the system, however
// long that of its folder is.
func inFolder(path string, call func(short string) error) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return call(fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path)))
}

// Listen makes a listening Unix socket and returns it as a file. One that is there was
// left behind.
func Listen(path string) (f *os.File, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	err = inFolder(path, func(short string) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		f, err = l.File()
		return errors.Join(err, l.Close())
	})
	return f, err
}

// Dial connects to a Unix socket.
func Dial(path string) (conn net.Conn, err error) {
	err = inFolder(path, func(short string) error {
		conn, err = net.Dial("unix", short)
		return err
	})
	return conn, err
}

// presence is a name in the system that a process holds while it lives.
func presence(tag string) string { return "@millrace-qemu-" + tag }

// Present holds the presence of a job's freeze, if nobody does yet.
func Present(tag string) (end func()) {
	l, err := net.Listen("unix", presence(tag))
	if err != nil {
		return func() {}
	}
	return func() { _ = l.Close() } // again does nothing
}

// Alive reports whether somebody holds the presence of a job's freeze.
func Alive(tag string) bool {
	conn, err := net.Dial("unix", presence(tag))
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// Process names the process at the other end of a Unix socket so that no later one has
// the same name.
func Process(conn net.Conn) (pid int, name string) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, ""
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, ""
	}
	var cred *unix.Ucred
	_ = raw.Control(func(fd uintptr) { cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if cred == nil || cred.Pid <= 0 {
		return 0, ""
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cred.Pid))
	if err != nil {
		return int(cred.Pid), fmt.Sprint(cred.Pid)
	}
	// The 22nd field is when it was started; the second, in brackets, may hold anything.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return int(cred.Pid), fmt.Sprint(cred.Pid)
	}
	return int(cred.Pid), fmt.Sprintf("%d/%s", cred.Pid, fields[19])
}

// CommandLine is what a process was started with.
func CommandLine(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// Detach lets a process outlive us, signals to our group included.
func Detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// Kill ends the process that started us, if it is still that.
func Kill(starter int) {
	if starter > 1 && os.Getppid() == starter {
		_ = unix.Kill(starter, unix.SIGKILL)
	}
}

func Refused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }
