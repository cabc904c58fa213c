//go:build unix

package regular

import (
	"errors"

	"golang.org/x/sys/unix"
)

// NoWait is a flag for os.OpenFile with which opening a pipe does not wait.
const NoWait = unix.O_NONBLOCK

// isSocket: a socket cannot be opened at all.
func isSocket(err error) bool { return errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EOPNOTSUPP) }
