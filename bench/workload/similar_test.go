package workload

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Guests are alike and not the same: each is sound and the same every time, lacks other
// files, and has what they share elsewhere.
func TestSimilarGuests(t *testing.T) {
	dir, from, ctx := t.TempDir(), t.TempDir(), t.Context()
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(from, fmt.Sprint(i)), fmt.Appendf(nil, "%10000d", i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, n := range map[string]uint64{"one": 1, "again": 1, "two": 2} {
		path := filepath.Join(dir, name)
		c, err := Similar(ctx, path, from, 32<<20, n)
		skipWithout(t, err)
		if c.Files < 85 || c.Files >= 100 || c.Files+c.Skipped != 100 {
			t.Errorf("guest %d has %d of 100 files, %d left out", n, c.Files, c.Skipped)
		}
		if err := Check(ctx, path); err != nil {
			t.Error(err)
		}
	}
	if !sameFile(t, filepath.Join(dir, "one"), filepath.Join(dir, "again")) {
		t.Error("guest 1 is not always the same")
	}
	if sameFile(t, filepath.Join(dir, "one"), filepath.Join(dir, "two")) {
		t.Error("guests 1 and 2 are the same")
	}
}
