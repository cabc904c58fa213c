//go:build unix

package lease

import (
	"errors"
	"os"
	"syscall"
)

// lock tries to lock f as long as it is open; false: somebody else has it. No
// child inherits it, as Go opens files for this process alone.
func lock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
