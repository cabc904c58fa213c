//go:build unix

package qmp

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// write sends a line, with a file if there is one. The file goes with its first byte.
func write(conn net.Conn, line []byte, file *os.File) error {
	if file == nil {
		_, err := conn.Write(line)
		return err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%w: only a Unix socket takes files", errUnsent)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", errUnsent, err)
	}
	n := 0
	if ctl := raw.Control(func(fd uintptr) {
		n, _, err = u.WriteMsgUnix(line, syscall.UnixRights(int(fd)), nil)
	}); ctl != nil {
		return fmt.Errorf("%w: %w", errUnsent, ctl)
	}
	if err == nil && n < len(line) {
		_, err = conn.Write(line[n:])
	}
	return err
}
