package dir

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/storetest"
)

func open(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func putString(t *testing.T, s store.Store, name, body string) {
	t.Helper()
	if err := s.PutNew(t.Context(), name, int64(len(body)), strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
}

// temps lists the unfinished uploads on the disk.
func temps(t *testing.T, s *Store) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(s.Root(), store.Reserved, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB) store.Store {
		s := open(t, t.TempDir())
		t.Cleanup(func() {
			if left, _ := filepath.Glob(filepath.Join(s.Root(), store.Reserved, "*")); len(left) > 0 {
				t.Errorf("temp files left behind: %q", left)
			}
		})
		return s
	})
}

func TestMissingFolder(t *testing.T) {
	root := filepath.Join(t.TempDir(), "vault")
	if _, err := Open(root); !errors.Is(err, store.ErrNoStore) || !strings.Contains(err.Error(), root) {
		t.Fatalf("open: want ErrNoStore naming %s, got %v", root, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); !errors.Is(err, store.ErrNoStore) {
		t.Fatalf("open of a file: want ErrNoStore, got %v", err)
	}
	s, err := Create(filepath.Join(root, "deep", "er"))
	if err != nil {
		t.Fatal(err)
	}
	putString(t, s, "a/b", "x")
	// The disk goes away under a running store.
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	checkGone(t, s)
	if _, err := os.Stat(root); err == nil {
		t.Error("a put made the folder of an absent store")
	}
}

func checkGone(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	var listErr error
	for _, listErr = range s.List(ctx, "") {
	}
	_, getErr := s.Get(ctx, "a/b", 0, make([]byte, 1))
	_, statErr := s.Stat(ctx, "a/b")
	_, beginErr := s.Begin(ctx)
	for op, err := range map[string]error{
		"list": listErr, "get": getErr, "stat": statErr, "begin": beginErr,
		"delete": s.Delete(ctx, "a/b"),
		"put":    s.PutNew(ctx, "a/c", 1, strings.NewReader("x")),
	} {
		if !errors.Is(err, store.ErrNoStore) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s in an absent store: want ErrNoStore, got %v", op, err)
		}
	}
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	s := open(t, t.TempDir())
	putString(t, s, "packs/a", "x")
	for _, name := range []string{".DS_Store", "Thumbs.db", "lost+found/x", "packs/.nfs0001", "packs/b~"} {
		path := filepath.Join(s.Root(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("foreign"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for e, err := range s.List(t.Context(), "") {
		if err != nil || e.Name != "packs/a" {
			t.Errorf("list: %+v, %v", e, err)
		}
	}
}

func TestFolderRemovedUnderTheStore(t *testing.T) {
	s := open(t, t.TempDir())
	putString(t, s, "packs/job/a", "x")
	if err := os.RemoveAll(filepath.Join(s.Root(), "packs")); err != nil {
		t.Fatal(err)
	}
	putString(t, s, "packs/job/b", "y")
	if err := os.RemoveAll(filepath.Join(s.Root(), store.Reserved)); err != nil {
		t.Fatal(err)
	}
	putString(t, s, "packs/job/c", "z")
}

func TestSweep(t *testing.T) {
	s := open(t, t.TempDir())
	if n, _, err := s.Sweep(t.Context(), time.Now()); n != 0 || err != nil {
		t.Fatalf("sweep of an empty store: %d, %v", n, err)
	}
	live, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := live.Write(bytes.Repeat([]byte("live"), piece/4)); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(s.Root(), store.Reserved, "dead")
	if err := os.WriteFile(old, []byte("dead"), 0o600); err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*day)); err != nil {
		t.Fatal(err)
	}
	n, size, err := s.Sweep(t.Context(), time.Now().Add(-day))
	if n != 1 || size != 4 || err != nil {
		t.Fatalf("sweep: %d files, %d bytes, %v; want 1, 4, nil", n, size, err)
	}
	if err := live.Commit(t.Context(), "live"); err != nil {
		t.Fatalf("commit of a live upload after a sweep: %v", err)
	}
	// An upload swept all the same fails and is not visible.
	late, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" { // there an open file cannot be removed
		if _, _, err := s.Sweep(t.Context(), time.Now().Add(day)); err != nil {
			t.Fatal(err)
		}
		if err := late.Commit(t.Context(), "late"); err == nil {
			t.Error("commit of a swept upload: no error")
		}
	}
	late.Abort()
	if _, err := s.Stat(t.Context(), "late"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a swept upload: %v", err)
	}
}

func TestErrorsNameOperationAndObject(t *testing.T) {
	s := open(t, t.TempDir())
	putString(t, s, "packs/a", "x")
	_, short := s.Get(t.Context(), "packs/a", 0, make([]byte, 2))
	_, absent := s.Get(t.Context(), "packs/b", 0, make([]byte, 2))
	for _, c := range []struct {
		err   error
		words string
	}{
		{short, "get packs/a"}, {absent, "get packs/b"},
		{s.PutNew(t.Context(), "packs/a", 1, strings.NewReader("x")), "put packs/a"},
		{s.PutNew(t.Context(), "packs/c", 1, strings.NewReader("xy")), "put packs/c"},
		{s.Delete(t.Context(), "packs/d"), "delete: stat packs/d"},
	} {
		if c.err == nil || !strings.HasPrefix(c.err.Error(), c.words) || !strings.Contains(c.err.Error(), s.Root()) {
			t.Errorf("want an error that begins %q and names %s, got: %v", c.words, s.Root(), c.err)
		}
	}
	if !errors.Is(short, io.ErrUnexpectedEOF) {
		t.Errorf("short read: %v", short)
	}
}
