//go:build unix

package dir

import (
	"errors"
	"io/fs"
	"os"
)

// link publishes by a hard link, which never replaces.
func link(temp, name string) error {
	err := os.Link(temp, name)
	if errors.Is(err, fs.ErrExist) && same(temp, name) {
		// A network file system repeated a link whose first answer was lost.
		err = nil
	}
	if err != nil {
		return err
	}
	// A temp that stays behind is a second name of a whole file; Sweep finds it.
	_ = os.Remove(temp)
	return nil
}

func same(a, b string) bool {
	x, errX := os.Lstat(a)
	y, errY := os.Lstat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
