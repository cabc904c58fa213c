//go:build !linux

package gauge

import (
	"errors"
	"os"
	"time"
)

// The measurements need what Linux says of files and processes.

func machine(*Machine, string) {}

func spent() (own, children time.Duration) { return 0, 0 }

// DiskUsage is only known on Linux.
func DiskUsage(string) (int64, error) { return 0, errors.New("only measured on Linux") }

func flushAll() {}

func largestRSS(*os.ProcessState) int64 { return 0 }

func watchMemory(int) func() int64 { return func() int64 { return 0 } }
