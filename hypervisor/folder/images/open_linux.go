package images

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// OpenFile opens an image for reading by its canonical path. A link that was
// put there since the path was resolved is refused; only a device may be
// reached through one. A pipe does not make it wait.
func OpenFile(path string) (*os.File, error) {
	const flags = os.O_RDONLY | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW, 0)
	if !errors.Is(err, unix.ELOOP) {
		return f, err
	}
	f, followErr := os.OpenFile(path, flags, 0)
	if followErr != nil {
		return nil, err
	}
	if st, statErr := f.Stat(); statErr != nil || st.Mode()&fs.ModeDevice == 0 {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
