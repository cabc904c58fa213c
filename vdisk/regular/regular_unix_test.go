//go:build unix

package regular_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace-backup/millrace/vdisk/regular"
)

// A pipe that nobody writes to would make os.Open wait for ever.
func TestOpen(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder) // the name of a socket has to be short
	if err := errors.Join(unix.Mkfifo("pipe", 0o600), os.Symlink("pipe", "link"), os.WriteFile("file", []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, kind := range map[string]string{"pipe": "a named pipe", "link": "a named pipe", "socket": "a socket", "/dev/null": "a device"} {
		if _, err := regular.Open(name); !errors.Is(err, regular.ErrOther) || !strings.Contains(err.Error(), kind) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"file", filepath.Join(folder, "file"), "."} {
		f, err := regular.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := regular.Open("nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
