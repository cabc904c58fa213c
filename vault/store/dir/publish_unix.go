//go:build unix && !linux

package dir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func publish(temp, name string) error { return link(temp, name) }

func syncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

func fullOrReadOnly(err error) (full, readOnly bool) {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT),
		errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

// notFolder: an element of a path that should be a folder is a file.
func notFolder(err error) bool { return errors.Is(err, unix.ENOTDIR) }
