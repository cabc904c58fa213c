package vhdx

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// TestReplayAgainstQEMU lets qemu-img replay the log of a built image into a
// copy and compares with our replay in memory. The original must not change.
func TestReplayAgainstQEMU(t *testing.T) {
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
	vdisktest.Tool(t, "qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", theirs)
	m, err := Open(vdisktest.File(t, ours), nil)
	if err != nil {
		t.Fatal(err)
	}
	vdisktest.Run(t, m, x.want)
	flat := filepath.Join(t.TempDir(), "flat.raw")
	vdisktest.Tool(t, "qemu-img", "convert", "-f", "vhdx", "-O", "raw", theirs, flat)
	if err := vdisktest.Equal(m, vdisktest.File(t, flat), 0, m.Size()); err != nil {
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
