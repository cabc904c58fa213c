package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// busy is a guest that writes all the time, with what it says of its files.
type busy struct {
	*product
	m *Machine
}

func (b *busy) shell(command string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	out, err := b.m.Shell(ctx, command)
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// synced is how many files are written, summed and synced by now.
func (b *busy) synced() int {
	b.Helper()
	for range 50 {
		if n, err := strconv.Atoi(b.shell("cat /synced")); err == nil {
			return n
		}
		time.Sleep(20 * time.Millisecond) // it was being written
	}
	b.Fatal("the guest does not count its files")
	return 0
}

// awaitFiles waits until so many are synced, and returns how many are.
func (b *busy) awaitFiles(n int) int {
	b.Helper()
	for {
		if now := b.synced(); now >= n {
			return now
		}
		if b.ctx.Err() != nil {
			b.Fatalf("the guest does not get to %d files", n)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// point backs the guest up and returns what is listed of it.
func (b *busy) point(more ...string) (id, consistency, scan, reason string) {
	b.Helper()
	s := b.product.backup2(append([]string{"qemu:" + b.m.QMP}, more...)...)
	var listed []struct {
		ID, Consistency, Scan string
		Reason                string `json:"scan_reason"`
	}
	if err := json.Unmarshal(b.run("points", "--json"), &listed); err != nil {
		b.Fatal(err)
	}
	for _, p := range listed {
		if p.ID == s.Points[0] {
			return p.ID, p.Consistency, p.Scan, p.Reason
		}
	}
	b.Fatalf("point %s is not listed", s.Points[0])
	return
}

// backup2 is backup of one source with flags.
func (p *product) backup2(args ...string) (s summary) {
	p.Helper()
	out := p.run(append([]string{"backup", "--json"}, args...)...)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.Outcome != "done" || len(s.Points) != 1 {
		p.Fatalf("backup: %v: %s", err, lines[len(lines)-1])
	}
	return s
}

// check restores a point and holds both file systems against what the guest had synced
// before it: at least so many files, each with its sum. clean says that the file system
// must be so without replaying its journal.
func (b *busy) check(point string, atLeast int, clean bool) (system string) {
	b.Helper()
	out := filepath.Join(b.dir, "restored-"+point[:8])
	b.run("restore", point, "--to", out, "--format", "raw", "--quiet")
	data, system := filepath.Join(out, "disk1.raw"), filepath.Join(out, "disk0.raw")
	fsck := func(flags string) (string, int) {
		said, _ := exec.CommandContext(b.ctx, "/usr/sbin/e2fsck", flags, data).CombinedOutput()
		c := exec.CommandContext(b.ctx, "/usr/sbin/e2fsck", "-fn", data)
		again, err := c.CombinedOutput()
		if err != nil {
			return string(said) + string(again), c.ProcessState.ExitCode()
		}
		return "", 0
	}
	flags := "-fy"
	if clean {
		flags = "-fn"
	}
	if said, code := fsck(flags); code != 0 {
		b.Errorf("point %s: e2fsck %s and -fn: %d: %s", point[:8], flags, code, said)
	}
	files := filepath.Join(b.dir, "files-"+point[:8])
	if err := os.Mkdir(files, 0o700); err != nil {
		b.Fatal(err)
	}
	if said, err := exec.CommandContext(b.ctx, "/usr/sbin/debugfs", "-R", "rdump / "+files, data).CombinedOutput(); err != nil {
		b.Fatalf("debugfs: %v: %s", err, said)
	}
	sums, err := os.ReadFile(filepath.Join(files, "sums"))
	if err != nil {
		b.Fatal(err)
	}
	right := 0
	for line := range strings.Lines(string(sums)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		content, err := os.ReadFile(filepath.Join(files, filepath.Base(name)))
		if got := sha256.Sum256(content); ok && err == nil && hex.EncodeToString(got[:]) == sum {
			right++
		} else if right < atLeast { // what came after the last sync may be there in part
			b.Errorf("point %s: file %s of %d that were synced: %v", point[:8], name, atLeast, err)
			break
		}
	}
	if right < atLeast {
		b.Errorf("point %s has %d whole files, %d were synced before it", point[:8], right, atLeast)
	}
	b.Logf("point %s: %d whole files, %d synced before", point[:8], right, atLeast)
	return system
}

// TestRunningGuest: a guest with two disks and its agent writes files all the time and is
// backed up meanwhile: whole, then by what its bitmaps say, with and without its agent.
// What was synced before each instant is in each point, the file systems are sound, the
// guest goes on, and what is restored boots.
func TestRunningGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines in software: some 40 s")
	}
	for _, n := range [][2]string{{"qemu-system-x86_64", "qemu-system-x86"}, {"qemu-img", "qemu-utils"}, {"/usr/sbin/e2fsck", "e2fsprogs"}, {"/usr/sbin/debugfs", "e2fsprogs"}} {
		skipIfMissing(t, require(n[0], n[1]))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	raw, system, data := filepath.Join(dir, "guest.raw"), filepath.Join(dir, "system.qcow2"), filepath.Join(dir, "data.raw")
	skipIfMissing(t, BuildWithAgent(ctx, raw, 192<<20, ""))
	for _, c := range [][]string{{"qemu-img", "convert", "-O", "qcow2", raw, system}, {"truncate", "-s", "256M", data}, {"/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", data}} {
		if said, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", c, err, said)
		}
	}
	p := newProduct(ctx, t)
	m, err := Run(ctx, Disk{system, "qcow2"}, Disk{data, "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop()
	b := &busy{p, m}
	b.shell("mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt && echo 0 > /synced && sync")
	b.shell(`(i=0; while :; do i=$((i+1)); dd if=/dev/urandom of=/mnt/f$i bs=4k count=8 2>/dev/null; sha256sum /mnt/f$i >> /mnt/sums; sync; echo $i > /synced; sleep 0.1; done) > /dev/null 2>&1 & true`)
	type taken struct {
		point string
		files int
		clean bool
	}
	var points []taken
	for _, c := range []struct{ freeze, consistency, scan string }{
		{"require", "fs-consistent", "full"}, {"prefer", "fs-consistent", "incremental"}, {"never", "crash-consistent", "incremental"},
	} {
		files := b.awaitFiles(5 * (len(points) + 1))
		point, consistency, scan, reason := b.point("--freeze", c.freeze)
		if consistency != c.consistency || scan != c.scan {
			t.Errorf("--freeze %s: %s, %s (%s), want %s, %s", c.freeze, consistency, scan, reason, c.consistency, c.scan)
		}
		t.Logf("--freeze %s: %d files synced before; %s, %s: %s", c.freeze, files, consistency, scan, reason)
		points = append(points, taken{point, files, c.consistency != "crash-consistent"})
		b.awaitFiles(files + 1) // the guest goes on
	}
	// An agent that hangs is given up, and the guest goes on.
	b.shell("killall -STOP qemu-ga")
	if _, consistency, scan, _ := b.point("--freeze", "prefer", "--scan", "full", "--limit-read", "25MiB", "--guest-latency", "1us"); consistency != "crash-consistent" || scan != "full" {
		t.Errorf("with an agent that hangs: %s, %s", consistency, scan)
	}
	// No disk is as quick as that, so the job has been slowed down.
	if story := string(b.run("audit", "show")); !strings.Contains(story, "its requests took up to ") || strings.Contains(story, "it was read slowly for 0") {
		t.Errorf("nothing is told of how the guest fared:\n%s", story[:min(len(story), 2000)])
	}
	b.shell("killall -CONT qemu-ga && sync")
	b.awaitFiles(b.synced() + 1)
	m.Stop()
	for i, c := range points {
		system := b.check(c.point, c.files, c.clean)
		if i == len(points)-1 {
			if got, err := Boot(ctx, system, "raw"); err != nil || got.Boots != 2 {
				t.Errorf("the restored guest: %+v, %v", got, err)
			}
		}
	}
}
