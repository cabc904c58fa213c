//go:build !linux && !windows

package pace

import "time"

// now is the time of day: it may jump, which costs a burst or a moment's wait.
func now() time.Duration { return time.Duration(time.Now().UnixNano()) }
