//go:build !windows

package part

import (
	"os"
	"syscall"
)

// hold locks a new file. A file system without locks is one where nobody gets a
// lock to remove it under.
func hold(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }

// removeUnheld removes a file unless somebody holds it.
func removeUnheld(folder *os.Root, name string) {
	f, err := folder.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		_ = folder.Remove(name)
	}
}
