package host

import (
	"errors"
	"io/fs"
)

// UnlessGone is the error of connecting to a QEMU, or nil when that is of there being no
// QEMU any more, in which nothing can be left.
func UnlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || Refused(err) {
		return nil
	}
	return err
}
