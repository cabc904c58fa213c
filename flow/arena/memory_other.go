//go:build !linux && !windows

package arena

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

func newSharedMemory(int) (*os.File, error) {
	return nil, fmt.Errorf("shared memory on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func mapArena(*os.File, int) (*Arena, error) {
	return nil, fmt.Errorf("shared memory on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Inherit is for systems that have an arena.
func (a *Arena) Inherit(*exec.Cmd) uint64 { return 0 }
