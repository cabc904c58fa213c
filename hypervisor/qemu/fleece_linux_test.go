package qemu_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
)

// A disk that is larger than a file may be is frozen all the same, and shows the instant
// wherever the guest overwrites it. (On a file system with files as large the fleecing
// file is as others are.)
func TestFreezeOfAHugeDisk(t *testing.T) {
	const huge = 16<<40 + 1<<30
	exe, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	path := filepath.Join(t.TempDir(), "huge.qcow2")
	if said, err := exec.Command(exe, "create", "-q", "-f", "qcow2", path, "16385G").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	vm := qemutest.Start(t, []qemutest.Disk{{Name: "a", Path: path, Format: "qcow2"}})
	places := []int64{0, 3<<40 + 4096, huge - 64<<10}
	before := noise(64<<10, 1)
	for _, at := range places {
		must(t, vm.Write("a", at, before))
	}
	j := newJob(t, vm, t.TempDir())
	g := j.inspect()
	f := j.freeze(g)
	for _, at := range places {
		must(t, vm.Write("a", at, noise(8<<10, 2)))
	}
	im, err := j.Open(t.Context(), g.Disks[0])
	must(t, err)
	defer im.Close()
	got := make([]byte, len(before))
	for _, at := range places {
		if _, err := im.ReadAt(got, at); err != nil || !bytes.Equal(got, before) {
			t.Errorf("at %d: %v, or not as it was", at, err)
		}
	}
	must(t, f.Changed(t.Context()))
	must(t, f.Release(t.Context(), true))
	if left := vm.Left(); len(left) > 0 {
		t.Errorf("left in QEMU: %v", left)
	}
}
