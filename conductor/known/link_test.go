package known

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A job keeps the files of the index that it began with, whatever becomes of them
// afterwards; those that had gone by then are named, and it does without.
func TestLink(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "index")
	there, gone := filepath.Join(from, "1.idx"), filepath.Join(from, "2.idx")
	if err := os.WriteFile(there, []byte("rows"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, lost, err := Index{Files: []string{there, gone}}.Link(to)
	if err != nil || !slices.Equal(files, []string{filepath.Join(to, "1.idx")}) || !slices.Equal(lost, []string{gone}) {
		t.Fatalf("files %v, gone %v, %v", files, lost, err)
	}
	if err := os.Remove(there); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(files[0]); err != nil || string(b) != "rows" {
		t.Errorf("read %q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(from, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := (Index{Files: []string{there}}).Link(filepath.Join(from, "plain")); err == nil {
		t.Error("a file in the folder's place is no error")
	}
}
