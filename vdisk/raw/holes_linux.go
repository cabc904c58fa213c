package raw

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// seekData returns the first offset at or after off that may hold data. The
// error is io.EOF when there is none, errNoMap when the file cannot tell.
func seekData(f *os.File, off int64) (int64, error) { return seek(f, off, unix.SEEK_DATA) }

// seekHole returns the first offset at or after off that is in a hole; the
// end of the file counts as one. The error is io.EOF when off is past it.
func seekHole(f *os.File, off int64) (int64, error) { return seek(f, off, unix.SEEK_HOLE) }

func seek(f *os.File, off int64, whence int) (int64, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var at int64
	var seekErr error
	if err := conn.Control(func(fd uintptr) { at, seekErr = unix.Seek(int(fd), off, whence) }); err != nil {
		return 0, err
	}
	switch {
	case seekErr == nil && at >= off:
		return at, nil
	case errors.Is(seekErr, unix.ENXIO):
		return 0, io.EOF
	case seekErr == nil, errors.Is(seekErr, unix.EINVAL), errors.Is(seekErr, unix.ENOTSUP), errors.Is(seekErr, unix.ENOSYS):
		return 0, errNoMap // block devices and old file systems
	}
	return 0, &os.PathError{Op: "lseek", Path: f.Name(), Err: seekErr}
}
