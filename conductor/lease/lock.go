package lease

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/vdisk/filelock"
)

// LockName is the file in a job's folder that its conductor holds locked.
const LockName = "alive"

// LockFolder marks a job's folder as that of a process that lives. The operating
// system takes the mark away when the process ends, however it does.
func LockFolder(folder string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(folder, LockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("mark the job's folder: %w", err)
	}
	ok, err := filelock.Try(f, 0)
	for tries := 0; !ok && err == nil && tries < 50; tries++ {
		// Somebody looks at this very moment whether the folder died.
		time.Sleep(20 * time.Millisecond)
		ok, err = filelock.Try(f, 0)
	}
	if err != nil || !ok {
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
	f, err := os.OpenFile(filepath.Join(folder, LockName), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	ok, err := filelock.Try(f, 0)
	return ok && err == nil
}

// ClearDied removes all but the mark and what is called one of keep from a folder
// whose process has ended without doing so, and reports whether it has. It does
// nothing while the process lives, or where nothing is known. The mark stays, so
// that others see the death too.
func ClearDied(folder string, keep ...string) bool {
	f, err := os.OpenFile(filepath.Join(folder, LockName), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close() // only then may a process take the folder
	if ok, err := filelock.Try(f, 0); !ok || err != nil {
		return false
	}
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if name := e.Name(); name != LockName && !slices.Contains(keep, name) {
			_ = os.RemoveAll(filepath.Join(folder, name))
		}
	}
	return err == nil
}
