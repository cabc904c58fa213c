//go:build unix

package conductor

import (
	"os"
	"runtime"
	"syscall"
)

// maxRSS is the peak of a process's resident memory in bytes, the arena's pages
// it touched included.
func maxRSS(p *os.ProcessState) int64 {
	u, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	if runtime.GOOS == "darwin" || runtime.GOOS == "ios" {
		return int64(u.Maxrss)
	}
	return int64(u.Maxrss) * 1024
}
