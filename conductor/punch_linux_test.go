package conductor

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func punch(t *testing.T, f *os.File, at, n int64) {
	t.Helper()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n); err != nil {
		t.Fatal(err)
	}
}
