//go:build unix

package dir

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace-backup/millrace/vault/store"
)

// Whatever lies in the folder beside objects, or in the place of one, no call waits for
// it, takes it for an object or replaces it; and it is told.
func TestStrays(t *testing.T) {
	root := t.TempDir()
	s, err := Create(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vault", "a/whole"} {
		if err := s.PutNew(t.Context(), name, 1, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(root, name) }
	err = errors.Join(unix.Mkfifo(at("a/pipe"), 0o600), unix.Mkfifo(at("pipe"), 0o600), os.Symlink("pipe", at("a/link")), os.Symlink("nowhere", at("a/dangling")),
		os.Symlink("a", at("linked")), os.Mkdir(at("Upper"), 0o700), os.WriteFile(at("Upper/file"), nil, 0o600), os.WriteFile(at("a/.hidden"), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/pipe", "pipe", "a/link"} {
		_, err := s.Get(t.Context(), name, 0, make([]byte, 1))
		_, err2 := s.Stat(t.Context(), name)
		for _, err := range []error{err, err2} {
			if name == "a/link" { // leads out of the folder a, to nothing
				if !errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if !errors.Is(err, store.ErrForeign) || !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "a named pipe") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := s.Delete(t.Context(), name); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("delete %s: %v", name, err)
		}
		if name == "a/link" {
			continue
		}
		if err := s.PutNew(t.Context(), name, 1, strings.NewReader("x")); !errors.Is(err, store.ErrName) || !strings.Contains(err.Error(), "a named pipe") {
			t.Errorf("put %s: %v", name, err)
		}
	}
	var listed, strays []string
	for e, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, e.Name)
	}
	for x, err := range s.Strays(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		strays = append(strays, x.Name+": "+x.What)
	}
	slices.Sort(strays)
	want := []string{"Upper: a folder", "a/.hidden: a file", "a/dangling: a symbolic link", "a/link: a symbolic link", "a/pipe: a named pipe", "linked: a symbolic link", "pipe: a named pipe"}
	if !slices.Equal(listed, []string{"a/whole", "vault"}) || !slices.Equal(strays, want) {
		t.Errorf("listed %q, strays %q", listed, strays)
	}
	for _, name := range []string{"a/pipe", "a/link", "linked", "Upper/file"} {
		if _, err := os.Lstat(at(name)); err != nil {
			t.Errorf("%s has gone: %v", name, err)
		}
	}
}

// A pipe in the place of a folder is not waited for either.
func TestAPipeAsFolder(t *testing.T) {
	root := t.TempDir()
	s, err := Create(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OS().ReadDir(filepath.Join(root, "a")); err == nil {
		t.Error("a pipe was listed")
	}
	if err := OS().SyncDir(filepath.Join(root, "a")); err == nil {
		t.Error("a pipe was synced")
	}
	if _, err := s.Get(t.Context(), "a/b", 0, make([]byte, 1)); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if err := s.PutNew(t.Context(), "a/b", 1, strings.NewReader("x")); !errors.Is(err, store.ErrName) {
		t.Error(err)
	}
}
