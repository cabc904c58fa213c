package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/bench/workload"
)

// The two peers run as they will be measured, on a small image. Millrace's own
// side is proved by the tests of cmd/millrace.
func TestPeersRun(t *testing.T) {
	base := t.TempDir()
	image := filepath.Join(base, "image.raw")
	if err := workload.Random(image, 4<<20, 1); err != nil {
		t.Fatal(err)
	}
	for _, one := range tools("millrace", base, image)[1:] {
		t.Run(one.name, func(t *testing.T) {
			if _, err := exec.LookPath(one.name); err != nil {
				t.Skipf("%s is not installed (Debian packages restic, borgbackup)", one.name)
			}
			for _, dir := range []string{one.home, one.target} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := one.call(t.Context(), one.init, base); err != nil {
				t.Fatal(err)
			}
			for _, phase := range []string{"full", "unchanged", "restore"} {
				r, err := one.run(t.Context(), phase, image)
				if err != nil {
					t.Fatal(err)
				}
				if r.CPU <= 0 || r.Seconds <= 0 || (phase == "full") != (r.Stored >= 4<<20) {
					t.Errorf("%s: %+v", phase, r)
				}
			}
		})
	}
}

func TestSame(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	long := bytes.Repeat([]byte("x"), 2<<20)
	a := write("a", long)
	if err := same(a, write("b", long)); err != nil {
		t.Error(err)
	}
	if same(a, write("c", long[1:])) == nil {
		t.Error("a shorter file was taken as the same")
	}
	long[1<<20] ^= 1
	if same(a, write("d", long)) == nil {
		t.Error("one changed bit was not seen")
	}
	if print(io.Discard, result{}, false) != nil {
		t.Error("a table row could not be printed")
	}
}
