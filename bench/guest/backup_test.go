package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/workload"
)

// product is the built program with a vault of its own.
type product struct {
	*testing.T
	ctx context.Context
	exe string
	dir string
}

func newProduct(ctx context.Context, t *testing.T) *product {
	t.Helper()
	dir := t.TempDir()
	p := &product{T: t, ctx: ctx, exe: filepath.Join(dir, "millrace"), dir: dir}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", p.exe, "github.com/millrace-backup/millrace/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("build millrace: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run("init", "--quiet")
	return p
}

// run runs the program, which must end well, and returns its stdout.
func (p *product) run(args ...string) []byte {
	p.Helper()
	out, said, err := p.try(args...)
	if err != nil {
		p.Fatalf("millrace %s: %v\n%s%s", strings.Join(args, " "), err, out, said)
	}
	return out
}

// try runs the program and returns what it said on stdout and stderr.
func (p *product) try(args ...string) (out, said []byte, err error) {
	c := p.command(args...)
	var complaint bytes.Buffer
	c.Stderr = &complaint
	out, err = c.Output()
	return out, complaint.Bytes(), err
}

func (p *product) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(p.ctx, p.exe, args...)
	c.Env = append(os.Environ(), "MILLRACE_VAULT="+filepath.Join(p.dir, "vault"), "MILLRACE_STATE="+filepath.Join(p.dir, "state"),
		"MILLRACE_PASSWORD_FILE="+filepath.Join(p.dir, "password"))
	c.WaitDelay = 5 * time.Second
	return c
}

// summary is what a backup says at its end.
type summary struct {
	Outcome   string
	Points    []string
	Disk      int64 `json:"disk_bytes"`
	Zero      int64 `json:"zero_bytes"`
	Unchanged int64 `json:"unchanged_bytes"`
	Known     int64 `json:"known_bytes"`
	New       int64 `json:"new_bytes"`
	Stored    int64 `json:"stored_bytes"`
}

func (p *product) backup(sources ...string) (s summary) {
	p.Helper()
	lines := bytes.Split(bytes.TrimSpace(p.run(append([]string{"backup", "--json"}, sources...)...)), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &s); err != nil {
		p.Fatalf("summary: %v", err)
	}
	if s.Outcome != "done" || len(s.Points) != len(sources) || s.Zero+s.Unchanged+s.Known+s.New != s.Disk {
		p.Fatalf("backup of %v: %+v", sources, s)
	}
	return s
}

// restored restores a point as raw and wants QEMU to find it the same disk as
// the image it is of.
func (p *product) restored(point, image string) string {
	p.Helper()
	out := filepath.Join(p.dir, filepath.Base(image)+".restored.raw")
	p.run("restore", point, "--to", out, "--quiet", "--force")
	if said, err := exec.CommandContext(p.ctx, "qemu-img", "compare", "-f", "raw", "-F", "vhdx", out, image).CombinedOutput(); err != nil {
		p.Fatalf("qemu-img compare %s with what was restored: %v\n%s", image, err, said)
	}
	return out
}

func (p *product) boots(disk, format string, want Ready) {
	p.Helper()
	got, err := Boot(p.ctx, disk, format)
	if err != nil {
		p.Fatal(err)
	}
	if got != want {
		p.Errorf("%s said %+v, want %+v", disk, got, want)
	}
}

// A guest that boots, as both kinds of VHDX, goes through a vault: QEMU finds the
// restored disks equal, and they boot. After a day's work of the guest only what
// changed is stored, and that state comes back too.
func TestRestoredGuestBoots(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines in software: some 40 s")
	}
	skipIfMissing(t, require("qemu-system-x86_64", "qemu-system-x86"))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()
	payload := realFiles(ctx, t)
	raw := filepath.Join(dir, "guest.raw")
	skipIfMissing(t, Build(ctx, raw, 256<<20, payload))
	sum := shell(t, payload)
	dynamic, fixed := filepath.Join(dir, "dynamic.vhdx"), filepath.Join(dir, "fixed.vhdx")
	skipIfMissing(t, workload.VHDX(ctx, raw, dynamic, "dynamic"))
	skipIfMissing(t, workload.VHDX(ctx, raw, fixed, "fixed"))
	p := newProduct(ctx, t)

	first := p.backup(dynamic)
	if twin := p.backup(fixed); twin.New != 0 || twin.Known != first.New+first.Known || twin.Zero != first.Zero {
		t.Errorf("the same disk as another guest: %+v; want all of it known, first was %+v", twin, first)
	}
	for _, image := range []string{dynamic, fixed} {
		p.boots(p.restored(filepath.Base(image)+"@latest", image), "raw", Ready{Boots: 1, Srv: sum})
	}

	p.boots(dynamic, "vhdx", Ready{Boots: 1, Srv: sum})
	second := p.backup(dynamic)
	if second.Unchanged == 0 || second.New == 0 || second.New > first.New/4 || second.Stored >= first.Stored/4 {
		t.Errorf("after a boot: %+v; want little new, first was %+v", second, first)
	}
	p.boots(p.restored(second.Points[0], dynamic), "raw", Ready{Boots: 2, Srv: sum})
}

// realFiles is a folder with some megabytes of files that people wrote.
func realFiles(ctx context.Context, t *testing.T) string {
	t.Helper()
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(root)), "src", "net")
}
