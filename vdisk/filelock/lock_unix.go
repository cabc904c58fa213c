//go:build unix

package filelock

import (
	"errors"
	"os"
	"syscall"
)

// Try tries to lock f as long as it is open; false: somebody else has it. at is the
// byte that is locked where a file is not locked as a whole (Windows): it need not
// exist, and all who ask must name the same one.
func Try(f *os.File, _ int64) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// Free lets others have the lock before the file is closed.
func Free(f *os.File, _ int64) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
