package export

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
)

// Of what is too large for a configuration nothing is read: an export may have thousands
// of such files.
func TestConfigurationsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "large.vmcx")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	// Nor does it count against what is read of the others.
	if err := os.WriteFile(filepath.Join(dir, "m.vmcx"), drivertest.VMCX(vmconfig.Machine{Name: "box"}), 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	tree, err := Read(t.Context(), dir)
	runtime.ReadMemStats(&after)
	if err != nil || len(tree.files) != 2 || tree.config.Machine == nil || !strings.Contains(strings.Join(tree.config.Remarks, " "), "it may have 4 to ") {
		t.Errorf("%+v, %v", tree, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > vmconfig.MaxSize/2 {
		t.Errorf("%d bytes were allocated", used)
	}
}
