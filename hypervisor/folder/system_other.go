//go:build !linux

package folder

import (
	"os"
	"time"
)

// Elsewhere there are no leases, and of a file only size and mtime are known
// without more; os.SameFile tells files apart. RecheckPercent makes up for it.

func leaseSignals() []os.Signal { return nil }

func takeLease(*os.File) string { return "leases are not supported on this system" }
func leaseHeld(*os.File) bool   { return false }
func dropLease(*os.File)        {}

func stampOf(f *os.File) (stamp, error) {
	st, err := f.Stat()
	if err != nil {
		return stamp{}, err
	}
	return stamp{Size: st.Size(), MTime: st.ModTime().UnixNano()}, nil
}

// flushFile does nothing: a file that is open for reading cannot be flushed.
func flushFile(*os.File) error { return nil }

func youth(stamp, time.Duration) time.Duration { return 0 }

func stampsEveryWrite(*os.File) bool { return false }
