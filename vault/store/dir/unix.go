//go:build unix

package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/millrace-backup/millrace/vdisk/regular"
)

// link publishes by a hard link, which never replaces.
func link(temp, name string) error {
	err := os.Link(temp, name)
	if errors.Is(err, fs.ErrExist) && same(temp, name) {
		// A network file system repeated a link whose first answer was lost.
		err = nil
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		// Not %w: EPERM here is no matter of permission.
		return fmt.Errorf("the file system can neither rename without replacing nor link (%v): %w", err, errors.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	// A temp that stays behind is a second name of a whole file; Sweep finds it.
	_ = os.Remove(temp)
	return nil
}

func replace(from, to string) error { return os.Rename(from, to) }

func same(a, b string) bool {
	x, errX := os.Lstat(a)
	y, errY := os.Lstat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

func syncDir(name string) error {
	f, err := regular.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	// Some network and FUSE file systems have no fsync for folders: there the
	// server decides, and refusing to work would not make anything safer.
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
