package direct

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cached counts the pages of a file that are in the page cache.
func cached(t *testing.T, path string, size int) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	in := make([]byte, size/os.Getpagesize())
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(size), uintptr(unsafe.Pointer(&in[0]))); e != 0 {
		t.Fatal(e)
	}
	for _, x := range in {
		n += int(x & 1)
	}
	return n
}

func TestThePageCacheIsNotFilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	raw, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f := New(raw)
	defer f.Close()
	probe := reopen(raw)
	if probe == nil {
		t.Skip("needs a temporary folder on ext4 or XFS (TMPDIR)")
	}
	_ = probe.Close()
	const size = 4 << 20
	if _, err := f.Write(Buffer(size)); err != nil {
		t.Fatal(err)
	}
	if n := cached(t, path, size); n != 0 {
		t.Errorf("%d of %d pages are in the cache", n, size/os.Getpagesize())
	}
	if _, err := raw.WriteAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	if n := cached(t, path, size); n == 0 {
		t.Error("the test sees no page of an ordinary write: it cannot fail")
	}
}
