package vhdx

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/raw"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// TestReplayAgainstQEMU lets qemu-img replay the log of a built image into a
// copy and compares with our replay in memory. The original must not change.
func TestReplayAgainstQEMU(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("needs qemu-img")
	}
	x := dirty(t, int(mib-2*layout.SectorSize), func(at int64) []logEntry {
		tail := int(mib - 2*layout.SectorSize)
		present := func(at int64) uint64 { return uint64(at) | layout.FullyPresent }
		size := at + 4*mib
		return []logEntry{
			{sequence: 5, tail: tail, flushed: size, last: size, changes: []overlay.Patch{change(testBATAt, batSector(present(at)))}},
			{sequence: 6, tail: tail, flushed: size, last: size, changes: []overlay.Patch{
				zeroed(testBATAt+4096, 64*kib), change(testBATAt, batSector(present(at), present(at+2*mib)))}},
		}
	})
	b := make([]byte, x.Size())
	if _, err := x.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	ours, theirs := filepath.Join(t.TempDir(), "ours.vhdx"), filepath.Join(t.TempDir(), "theirs.vhdx")
	for _, path := range []string{ours, theirs} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(qemu, "check", "-q", "-r", "all", "-f", "vhdx", theirs).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img check: %v\n%s", err, out)
	}
	f, err := os.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := raw.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	vdisktest.Run(t, m, x.want)
	flat := filepath.Join(t.TempDir(), "flat.raw")
	if out, err := exec.Command(qemu, "convert", "-f", "vhdx", "-O", "raw", theirs, flat).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img convert: %v\n%s", err, out)
	}
	g, err := os.Open(flat)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := vdisktest.Equal(m, g, 0, m.Size()); err != nil {
		t.Errorf("QEMU's replay differs: %v", err)
	}
	after, err := os.ReadFile(ours)
	if err != nil || !bytes.Equal(after, b) {
		t.Errorf("the file was changed by reading it (%v)", err)
	}
	left, err := os.ReadFile(theirs)
	if err != nil || bytes.Equal(left, b) {
		t.Errorf("QEMU replayed nothing (%v)", err)
	}
}
