package restore

import (
	"os"
	"syscall"
	"testing"
)

// checkHoles fails unless what was a hole of 16 KiB or more takes no room.
func checkHoles(t *testing.T, path string, content []byte) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	var data int64
	for at := 0; at < len(content); at += 4096 {
		for _, b := range content[at:min(at+4096, len(content))] {
			if b != 0 {
				data += 4096
				break
			}
		}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Skip("no block count here")
	}
	if used := st.Blocks * 512; used > data+256*kib || used < data/2 {
		t.Errorf("the file takes %d bytes for %d bytes of data in %d", used, data, len(content))
	}
}
