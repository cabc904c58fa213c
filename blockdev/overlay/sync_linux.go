package overlay

import (
	"os"

	"golang.org/x/sys/unix"
)

// file is a file of which a sync is about its bytes and its length, not its times, and that
// says in the same way everywhere that the disk is full.
type file struct{ *os.File }

func (f file) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

func (f file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, noRoom(err)
}
