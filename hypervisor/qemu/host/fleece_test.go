package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// QEMU finds nothing wrong with an empty image of ours, leaks included, and reads its size.
func TestEmptyImage(t *testing.T) {
	exe, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	for size, text := range map[int64]string{512: "512 B", 1 << 40: "1 TiB", 17<<40 + 512: "17 TiB", 64 << 40: "64 TiB"} {
		path := filepath.Join(t.TempDir(), "empty")
		if err := os.WriteFile(path, emptyQcow2(size), 0o600); err != nil {
			t.Fatal(err)
		}
		if said, err := exec.Command(exe, "check", "-f", "qcow2", path).CombinedOutput(); err != nil || !strings.Contains(string(said), "No errors") {
			t.Errorf("%d: %v: %s", size, err, said)
		}
		if said, err := exec.Command(exe, "info", "-f", "qcow2", path).CombinedOutput(); err != nil || !strings.Contains(string(said), "virtual size: "+text) {
			t.Errorf("%d: %v: %s", size, err, said)
		}
	}
}
