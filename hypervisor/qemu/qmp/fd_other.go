//go:build !unix

package qmp

import (
	"fmt"
	"net"
	"os"
)

// write sends a line. This system cannot give another process an open file so.
func write(conn net.Conn, line []byte, file *os.File) error {
	if file != nil {
		return fmt.Errorf("%w: this system cannot hand an open file to QEMU", errUnsent)
	}
	_, err := conn.Write(line)
	return err
}
