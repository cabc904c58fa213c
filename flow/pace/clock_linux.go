package pace

import (
	"time"

	"golang.org/x/sys/unix"
)

// now is the time since the machine started, the same for all its processes. Nobody
// sets it, and it goes on while the machine sleeps.
func now() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return time.Duration(time.Now().UnixNano())
	}
	return time.Duration(t.Nano())
}
