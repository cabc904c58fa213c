//go:build unix

package meter

import (
	"syscall"
	"time"
)

// CPU is the processor time that this process has used, user and system.
func CPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
