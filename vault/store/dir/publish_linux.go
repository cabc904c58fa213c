package dir

import (
	"errors"
	"io/fs"

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
