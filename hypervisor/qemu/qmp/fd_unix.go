//go:build unix

package qmp

import (
	"errors"
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
		return errors.New("only a Unix socket takes files")
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	n := 0
	ctl := raw.Control(func(fd uintptr) {
		n, _, err = u.WriteMsgUnix(line, syscall.UnixRights(int(fd)), nil)
	})
	if err == nil && ctl == nil && n < len(line) {
		_, err = conn.Write(line[n:])
	}
	return errors.Join(ctl, err)
}
