package folder_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder"
)

// FuzzResume takes anything for a record.
func FuzzResume(f *testing.F) {
	path := filepath.Join(f.TempDir(), "disk.raw")
	if err := os.WriteFile(path, image(10_000, 1), 0o600); err != nil {
		f.Fatal(err)
	}
	d := folder.New(path, options)
	g, err := d.Inspect(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	frozen, err := d.Freeze(f.Context(), g[0], hypervisor.CrashOnly)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frozen.Record())
	f.Add([]byte(`{"format":1,"disks":[{"key":"disk.raw"}]}`))
	f.Fuzz(func(t *testing.T, record []byte) {
		if r, err := d.Resume(t.Context(), g[0], record); err == nil {
			if err := r.Release(t.Context(), false); err != nil {
				t.Error(err)
			}
		}
	})
}
