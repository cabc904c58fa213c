package bench

import (
	"path/filepath"
	"testing"
)

// The adapters that are shipped can be read.
func TestShippedAdapters(t *testing.T) {
	paths, err := filepath.Glob("../../../bench/peers/adapters/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no adapters: %v", err)
	}
	all, err := readAdapters(paths)
	if err != nil || len(all) != len(paths) || all[0].Name != "kopia" {
		t.Errorf("%+v, %v", all, err)
	}
}
