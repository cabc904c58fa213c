package part

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A process that is killed leaves its file; the next one removes it, but neither the
// file of one that still runs nor anything that only looks alike.
func TestOnlyLeftoversGo(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "disk.raw")
	if os.Getenv("PART_OF") != "" {
		f, err := Create(os.Getenv("PART_OF"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString(f.Name() + "\n")
		p, _ := os.FindProcess(os.Getpid())
		_ = p.Kill()
		select {}
	}
	child := exec.Command(os.Args[0], "-test.run=^TestOnlyLeftoversGo$")
	child.Env = append(os.Environ(), "PART_OF="+path)
	out, err := child.Output()
	name, _, ok := bytes.Cut(out, []byte("\n"))
	if err == nil || !ok {
		t.Fatalf("the child was to be killed: %v, %q", err, out)
	}
	left := string(name)
	if _, err := os.Stat(left); err != nil {
		t.Fatal(err)
	}
	stay := []string{".disk.raw.part", ".disk.raw.0123.part", ".disk.raw.0123456789abcdeX.part", ".other.raw.0123456789abcdef.part", "disk.raw"}
	for _, name := range stay {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	running, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what a killed restore left is there still: %v", err)
	}
	second, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for _, name := range append(stay, filepath.Base(running.Name()), filepath.Base(second.Name())) {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Error("removed, and was no leftover:", err)
		}
	}
}

// Whatever name a file system takes, its part has one too; and is found again.
func TestLongNames(t *testing.T) {
	for _, name := range []string{strings.Repeat("x", 255), strings.Repeat("日", 85), strings.Repeat("日", 66) + "xé"} {
		path := filepath.Join(t.TempDir(), name)
		f, err := Create(path)
		if err != nil {
			t.Fatal(err)
		}
		left := f.Name()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		next, err := Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if _, err := os.Stat(left); !os.IsNotExist(err) {
			t.Errorf("the part of %d bytes is there still: %v", len(name), err)
		}
	}
}
