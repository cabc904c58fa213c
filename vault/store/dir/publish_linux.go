package dir

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// publish renames without replacing; where the file system cannot do that (NFS,
// older FUSE), it links and removes the temp name.
func publish(temp, name string) error {
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return link(temp, name)
	}
	if err != nil {
		return &fs.PathError{Op: "renameat2", Path: name, Err: err}
	}
	return nil
}

func syncDir(name string) error {
	f, err := os.Open(name)
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
