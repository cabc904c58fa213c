// Package regular opens files for reading that somebody else may have put where they are.
//
// [Open] never waits, as opening a named pipe does until somebody writes to it, and opens
// nothing but files and folders: for a pipe, a socket or a device under the name it gives
// [ErrOther], which says what is there. [Kind] puts the kind of anything into words. Links
// are followed: what they lead to is judged.
//
// Whoever has other uses for devices opens with [NoWait] himself and looks at what it is.
package regular

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ErrOther: there is something of that name, which is neither a file nor a folder.
var ErrOther = errors.New("not a file")

// Open opens a file or a folder for reading.
func Open(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|NoWait, 0)
	if err != nil {
		if isSocket(err) {
			err = &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("a socket: %w", ErrOther)}
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%s: %w", Kind(info.Mode()), ErrOther)}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Kind says what has such a mode.
func Kind(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "a file"
	case m.IsDir():
		return "a folder"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "something that is no file"
}
