package dir

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/windows"
)

// publish moves without MOVEFILE_REPLACE_EXISTING, so it never replaces, and
// with MOVEFILE_WRITE_THROUGH, so the name is on the disk when it returns.
func publish(temp, name string) error { return move(temp, name, windows.MOVEFILE_WRITE_THROUGH) }

// replace is publish in the place of another file.
func replace(temp, name string) error {
	return move(temp, name, windows.MOVEFILE_WRITE_THROUGH|windows.MOVEFILE_REPLACE_EXISTING)
}

func move(temp, name string, flags uint32) error {
	from, err := windows.UTF16PtrFromString(temp)
	if err != nil {
		return err
	}
	to, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return err
	}
	if err := windows.MoveFileEx(from, to, flags); err != nil {
		return &fs.PathError{Op: "MoveFileEx", Path: name, Err: err}
	}
	return nil
}

// syncDir does nothing: Windows has no call for it, and publish wrote through.
func syncDir(string) error { return nil }

func fullOrReadOnly(err error) (full, readOnly bool) {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) || errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED),
		errors.Is(err, windows.ERROR_WRITE_PROTECT) || errors.Is(err, windows.ERROR_ACCESS_DENIED)
}

// notFolder: an element of a path that should be a folder is a file.
func notFolder(err error) bool {
	return errors.Is(err, windows.ERROR_PATH_NOT_FOUND) || errors.Is(err, windows.ERROR_DIRECTORY)
}
