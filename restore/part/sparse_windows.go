package part

import (
	"os"

	"golang.org/x/sys/windows"
)

// Sparse tells NTFS that unwritten ranges are holes; without it they would be
// written as zeros.
func Sparse(f *os.File) error {
	var n uint32
	return windows.DeviceIoControl(windows.Handle(f.Fd()), windows.FSCTL_SET_SPARSE, nil, 0, nil, 0, &n, nil)
}
