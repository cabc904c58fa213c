//go:build !linux

package overlay

import "os"

// file is a file that says in the same way everywhere that the disk is full.
type file struct{ *os.File }

func (f file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, noRoom(err)
}
