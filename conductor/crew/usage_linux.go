package crew

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// peak is the most memory that a running process has had resident, in bytes, the
// arena's pages it touched included. (The figure that wait returns is inherited
// across exec: it would show every worker with the conductor's own peak.)
func peak(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, _ := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			return kib << 10
		}
	}
	return 0
}
