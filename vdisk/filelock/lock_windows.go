package filelock

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// Try tries to lock f as long as it is open; false: somebody else has it. at is the
// byte that is locked: it need not exist, and all who ask must name the same one.
func Try(f *os.File, at int64) (bool, error) {
	o := windows.Overlapped{Offset: uint32(at), OffsetHigh: uint32(at >> 32)}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &o)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// Free lets others have the lock before the file is closed.
func Free(f *os.File, at int64) error {
	o := windows.Overlapped{Offset: uint32(at), OffsetHigh: uint32(at >> 32)}
	return windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &o)
}
