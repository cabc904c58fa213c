package overlay

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/windows"
)

// noRoom makes errors that say that there is no room ENOSPC, which Windows itself never says.
func noRoom(err error) error {
	if errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) || errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED) {
		return fmt.Errorf("%w: %w", syscall.ENOSPC, err)
	}
	return err
}
