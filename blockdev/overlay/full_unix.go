//go:build unix

package overlay

import (
	"errors"
	"fmt"
	"syscall"
)

// noRoom makes errors that say that there is no room ENOSPC.
func noRoom(err error) error {
	if errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", syscall.ENOSPC, err)
	}
	return err
}
