package host

import (
	"context"
	"time"
)

// Ended reports whether nobody holds the presence of a job's freeze. The guard of a job
// that has just ended may need a moment to see that; it is given patience.
func Ended(ctx context.Context, tag string, patience time.Duration) bool {
	for end := time.Now().Add(patience); Alive(tag); time.Sleep(30 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(end) {
			return false
		}
	}
	return true
}
