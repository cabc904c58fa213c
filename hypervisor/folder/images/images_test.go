package images

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/drivertest"
)

// As many images as a tree may have are sorted at once, and not each against each.
func TestLeavesOfMany(t *testing.T) {
	const n = 100_000
	var all []Image
	for i := range n {
		m := Image{Key: fmt.Sprint(i), id: fmt.Sprint("/d/", i)}
		if i%100 != 0 { // chains of a hundred, as Below has them: all parents
			m.Below = append([]string{all[i-1].id}, all[i-1].Below...)
		}
		all = append(all, m)
	}
	start := time.Now()
	leaves := Leaves(all)
	if len(leaves) != n/100 || leaves[0].Key != "99" {
		t.Errorf("%d leaves, the first %+v", len(leaves), leaves[0].Key)
	}
	if took := time.Since(start); took > 30*time.Second { // each against each takes hours
		t.Errorf("took %v", took)
	}
}

// A parent is known by its file, whatever way leads to it.
func TestAParentBehindALink(t *testing.T) {
	dir := t.TempDir()
	base, child := filepath.Join(dir, "base.vhdx"), filepath.Join(dir, "child.avhdx")
	if err := drivertest.VHDX(base, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := drivertest.Checkpoint(child, base, 1); err != nil {
		t.Fatal(err)
	}
	real := filepath.Join(dir, "old", "real.vhdx")
	if err := os.Mkdir(filepath.Dir(real), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(base, real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("old", "real.vhdx"), base); err != nil {
		t.Skipf("needs symbolic links: %v", err)
	}
	all := []Image{At("child", child), At("real", real)}
	if err := Probe(t.Context(), all, []string{dir}); err != nil {
		t.Fatal(err)
	}
	if leaves := Leaves(all); len(leaves) != 1 || leaves[0].Key != "child" || all[0].Below[0] != all[1].ID() {
		t.Errorf("%+v", leaves)
	}
}
