package part

import (
	"os"

	"golang.org/x/sys/windows"
)

// hold locks a new file: os.Root opens files so that others may remove them.
func hold(f *os.File) { _ = lock(f, windows.LOCKFILE_EXCLUSIVE_LOCK) }

// lock locks one byte, where no file has any: nobody else may touch what is locked.
func lock(f *os.File, flags uint32) error {
	at := windows.Overlapped{OffsetHigh: 1 << 30}
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &at)
}

// removeUnheld removes a file unless somebody holds it.
func removeUnheld(folder *os.Root, name string) {
	f, err := folder.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if lock(f, windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY) == nil {
		_ = folder.Remove(name)
	}
}
