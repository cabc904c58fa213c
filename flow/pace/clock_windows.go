package pace

import (
	"time"

	"golang.org/x/sys/windows"
)

// now is the time since the machine started, the same for all its processes.
func now() time.Duration { return windows.DurationSinceBoot() }
