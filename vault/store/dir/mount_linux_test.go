package dir

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace-backup/millrace/vault/store"
)

// mount gives the test a file system of its own, or skips.
func mount(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	root := t.TempDir()
	if err := unix.Mount("millrace-test", root, "tmpfs", 0, options); err != nil {
		t.Skipf("mounting a tmpfs is not allowed here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", root, err)
		}
	})
	return root
}

func TestFullDisk(t *testing.T) {
	s := open(t, mount(t, "size=8m"))
	putString(t, s, "packs/a", strings.Repeat("a", 2<<20))
	large := bytes.Repeat([]byte("b"), 16<<20)
	err := s.PutNew(t.Context(), "packs/b", int64(len(large)), bytes.NewReader(large))
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "packs/b") {
		t.Fatalf("put on a full disk: want ErrFull naming the object, got %v", err)
	}
	u, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Write(large)
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("write to an upload on a full disk: want ErrFull, got %v", err)
	}
	if err := u.Commit(t.Context(), "packs/c"); !errors.Is(err, store.ErrFull) {
		t.Fatalf("commit after a failed write: want ErrFull, got %v", err)
	}
	if left := temps(t, s); len(left) > 0 {
		t.Errorf("temps left: %q", left)
	}
	for e, err := range s.List(t.Context(), "") {
		if err != nil || e.Name != "packs/a" {
			t.Errorf("list: %+v, %v", e, err)
		}
	}
	putString(t, s, "packs/d", strings.Repeat("d", 2<<20)) // there is room again
}

func TestNoInodesLeft(t *testing.T) {
	s := open(t, mount(t, "size=8m,nr_inodes=6"))
	var err error
	for i := 0; err == nil && i < 10; i++ {
		err = s.PutNew(t.Context(), "packs/"+string(rune('a'+i)), 1, strings.NewReader("x"))
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("put without inodes: want ErrFull, got %v", err)
	}
}

func TestReadOnlyFolder(t *testing.T) {
	root := t.TempDir()
	if os.Geteuid() == 0 {
		root = mount(t, "size=8m") // chmod does not bite root, a mount flag does
	}
	s := open(t, root)
	putString(t, s, "packs/a", "x")
	if os.Geteuid() == 0 {
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Skipf("remounting read-only is not allowed here: %v", err)
		}
	} else {
		for _, folder := range []string{store.Reserved, "packs", ""} {
			path := filepath.Join(root, folder)
			if err := os.Chmod(path, 0o500); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(path, 0o700) })
		}
	}
	_, beginErr := s.Begin(t.Context())
	fresh := open(t, root) // one that has not put anything yet
	for op, err := range map[string]error{
		"begin": beginErr, "delete": s.Delete(t.Context(), "packs/a"),
		"put":           s.PutNew(t.Context(), "packs/b", 1, strings.NewReader("x")),
		"put elsewhere": fresh.PutNew(t.Context(), "ledger/b", 1, strings.NewReader("x")),
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: want ErrReadOnly, got %v", op, err)
		}
	}
	if b, err := store.ReadAll(t.Context(), s, "packs/a", 10); err != nil || string(b) != "x" {
		t.Errorf("reading: %q, %v", b, err)
	}
}

func TestLinkWhereRenameCannot(t *testing.T) {
	root := t.TempDir()
	temp, name := filepath.Join(root, "t"), filepath.Join(root, "n")
	write := func(path, body string) {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(temp, "one")
	if err := link(temp, name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(temp); err == nil {
		t.Error("the temp is still there")
	}
	write(temp, "two")
	if err := link(temp, name); !errors.Is(err, os.ErrExist) {
		t.Errorf("link over a name: want ErrExist, got %v", err)
	}
	if b, _ := os.ReadFile(name); string(b) != "one" {
		t.Errorf("the name now holds %q", b)
	}
	// The link was made, and the answer lost: the repeated one must succeed.
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(temp, name); err != nil {
		t.Fatal(err)
	}
	if err := link(temp, name); err != nil {
		t.Errorf("repeated link: %v", err)
	}
}
