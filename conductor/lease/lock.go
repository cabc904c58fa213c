package lease

import (
	"fmt"
	"os"
	"path/filepath"
)

// lockName is the file in a job's folder that its conductor holds locked.
const lockName = "alive"

// LockFolder marks a job's folder as that of a process that lives. The operating
// system takes the mark away when the process ends, however it does.
func LockFolder(folder string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(folder, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("mark the job's folder: %w", err)
	}
	if ok, err := lock(f); err != nil || !ok {
		// A file system without locks: then this host's jobs, too, are told
		// apart by their heartbeats.
		_ = f.Close()
		_ = os.Remove(f.Name())
		return func() {}, nil
	}
	return func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // in this order: Windows removes no open file
	}, nil
}

// FolderDied reports whether the process that had marked the folder has ended
// without taking the mark away. False also says that nothing is known.
func FolderDied(folder string) bool {
	f, err := os.OpenFile(filepath.Join(folder, lockName), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	ok, err := lock(f)
	return ok && err == nil
}
