package vdisktest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/raw"
)

// Tool runs a program, such as qemu-img, and returns what it says. The test is
// skipped where there is no such program.
func Tool(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	// qemu-img measures how much hashing a password may take, and gives up where it gets
	// no processor meanwhile.
	for try := 0; err != nil && try < 50 && bytes.Contains(out, []byte("accurate CPU usage")); try++ {
		time.Sleep(100 * time.Millisecond)
		out, err = exec.Command(path, args...).CombinedOutput()
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// File opens the bytes of a file, until the test ends.
func File(t *testing.T, path string) *raw.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	m, err := raw.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// CreateFrom makes an image in a new file of the disk in another file.
func CreateFrom(t *testing.T, path, from string, create func(f vdisk.File, disk vdisk.Image) error) {
	t.Helper()
	disk := File(t, from)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := create(f, disk); err != nil {
		t.Fatal(err)
	}
}

// WriteFile writes a disk into a new file as it is, with holes where it is zero.
func WriteFile(t *testing.T, path string, disk vdisk.Image) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(disk.Size()); err != nil {
		t.Fatal(err)
	}
	if err := vdisk.Copy(t.Context(), f, disk); err != nil {
		t.Fatal(err)
	}
}
