package rundirect

import (
	"os"

	"golang.org/x/sys/unix"
)

// forget has the system forget what it keeps of a file in memory, as far as it is on disk: what
// is read next shall come from there.
func forget(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// room is how many bytes there are for files beside f, and false if that is not known.
func room(f *os.File) (int64, bool) {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil {
		return 0, false
	}
	return int64(st.Bavail) * st.Bsize, true
}
