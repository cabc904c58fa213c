package guest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/workload"
)

func skipIfMissing(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ErrMissing) || errors.Is(err, workload.ErrTool) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The same disk as raw and as both kinds of VHDX boots, remembers that it did,
// and reads back the file it was given.
func TestGuestBoots(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines in software: some 30 s")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()
	payload := filepath.Join(dir, "payload")
	if err := os.MkdirAll(payload, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(payload, "hello"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(dir, "guest.raw")
	skipIfMissing(t, Build(ctx, raw, 96<<20, payload))

	first, err := Boot(ctx, raw, "raw")
	skipIfMissing(t, err)
	sum := shell(t, payload)
	if first.Boots != 1 || first.Srv != sum {
		t.Errorf("first boot said %+v, want 1 and %s", first, sum)
	}
	for n, variant := range []string{"dynamic", "fixed"} {
		disk := filepath.Join(dir, variant+".vhdx")
		skipIfMissing(t, workload.VHDX(ctx, raw, disk, variant))
		for again := range 2 - n {
			got, err := Boot(ctx, disk, "vhdx")
			if err != nil {
				t.Fatal(err)
			}
			if got.Boots != 2+again || got.Srv != sum {
				t.Errorf("%s boot %d said %+v, want %d and %s", variant, again, got, 2+again, sum)
			}
		}
	}
}

// shell computes the sum as the guest does.
func shell(t *testing.T, payload string) string {
	t.Helper()
	c := exec.Command("/bin/busybox", "sh", "-c", "find . -type f | sort | xargs -r sha256sum | sha256sum | cut -d ' ' -f 1")
	c.Dir = payload
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestDiskThatDoesNotBoot(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "empty.raw")
	if err := workload.Zero(raw, 1<<20); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	_, err := Boot(ctx, raw, "raw")
	if errors.Is(err, ErrMissing) {
		t.Skip(err)
	}
	if !errors.Is(err, ErrNotReady) {
		t.Errorf("an empty disk: got %v, want ErrNotReady", err)
	}
}

func TestImageThatIsNotThere(t *testing.T) {
	_, err := Boot(t.Context(), filepath.Join(t.TempDir(), "none, really.raw"), "raw")
	if errors.Is(err, ErrMissing) {
		t.Skip(err)
	}
	if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("got %v, want QEMU's own words", err)
	}
}
