package dir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vault/store"
)

// A disk that is unmounted leaves an empty folder where it was. Nothing is written
// there, and its emptiness is not taken for the store's.
func TestAnotherFolderInItsPlace(t *testing.T) {
	root := filepath.Join(t.TempDir(), "vault")
	s, err := Create(root)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	put := func(name string) error { return s.PutNew(ctx, name, 1, strings.NewReader("x")) }
	if err := errors.Join(put("vault"), put("packs/a"), s.Mark(ctx, "vault")); err != nil {
		t.Fatal(err)
	}
	under, err := s.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := under.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	away := root + "-away"
	if err := errors.Join(os.Rename(root, away), os.Mkdir(root, 0o700)); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"put": put("packs/b"), "commit": under.Commit(ctx, "packs/c"), "delete": s.Delete(ctx, "packs/a"),
		"begin": func() error { _, err := s.Begin(ctx); return err }(),
		"get":   func() error { _, err := s.Get(ctx, "packs/a", 0, make([]byte, 1)); return err }(),
		"stat":  func() error { _, err := s.Stat(ctx, "packs/a"); return err }(),
		"list": func() error {
			for _, err := range s.List(ctx, "packs/") {
				return err
			}
			return nil
		}(),
	} {
		if !errors.Is(err, store.ErrNoStore) || !strings.Contains(err.Error(), root) {
			t.Errorf("%s: want ErrNoStore naming %s, got %v", what, root, err)
		}
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
		t.Errorf("in the folder below: %v, %v", entries, err)
	}
	// It comes back as what the system takes for another disk: the mark tells.
	if err := errors.Join(os.Remove(root), os.CopyFS(root, os.DirFS(away))); err != nil {
		t.Fatal(err)
	}
	if err := put("packs/b"); err != nil {
		t.Errorf("back again: %v", err)
	}
	// A store that is another one has another mark.
	if err := errors.Join(os.Rename(root, root+"-2"), os.CopyFS(root, os.DirFS(away)), os.WriteFile(filepath.Join(root, "vault"), []byte("z"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := put("packs/d"); !errors.Is(err, store.ErrNoStore) {
		t.Errorf("another store: %v", err)
	}
}
