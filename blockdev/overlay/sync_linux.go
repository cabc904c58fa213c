package overlay

import (
	"os"

	"golang.org/x/sys/unix"
)

// synced is a file of which a sync is about its bytes and its length, not its times.
type synced struct{ *os.File }

func (f synced) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}
