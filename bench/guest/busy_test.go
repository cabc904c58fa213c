package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/agent"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
)

// busy is a guest with a system disk (qcow2) and a data disk (raw), which writes files on
// both all the time and syncs them, and a vault that it is backed up into.
type busy struct {
	*product
	m       *Machine
	system  string
	scratch int
	times   int         // how often the guest has begun to write
	written map[int]int // by these runs: how many files were synced when it ended
}

// newBusy starts the guest and has it write.
func newBusy(ctx context.Context, t *testing.T) *busy {
	t.Helper()
	for _, n := range [][2]string{{qemu, "qemu-system-x86"}, {"qemu-img", "qemu-utils"}, {"/usr/sbin/e2fsck", "e2fsprogs"}, {"/usr/sbin/debugfs", "e2fsprogs"}} {
		skipIfMissing(t, require(n[0], n[1]))
	}
	dir := t.TempDir()
	raw, system, data := filepath.Join(dir, "guest.raw"), filepath.Join(dir, "system.qcow2"), filepath.Join(dir, "data.raw")
	skipIfMissing(t, BuildWithAgent(ctx, raw, 192<<20, ""))
	for _, c := range [][]string{{"qemu-img", "convert", "-O", "qcow2", raw, system}, {"truncate", "-s", "256M", data}, {"/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", data}} {
		if said, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", c, err, said)
		}
	}
	b := &busy{product: newProduct(ctx, t), system: system, written: map[int]int{}}
	var err error
	if b.m, err = Run(ctx, Disk{system, "qcow2"}, Disk{data, "raw"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.m.Stop)
	b.work()
	return b
}

// work has a guest that has just started write: the files of the first time are in folder
// w1 of both disks, and so on.
func (b *busy) work() {
	b.Helper()
	b.times++
	b.shell(fmt.Sprintf("mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt && mkdir /mnt/w%d /srv/w%[1]d && echo 0 > /run/synced && sync", b.times))
	b.shell(fmt.Sprintf(`(i=0; while :; do i=$((i+1)); for d in /mnt/w%d /srv/w%[1]d; do dd if=/dev/urandom of=$d/f$i bs=4k count=8 2>/dev/null; sha256sum $d/f$i >> $d/sums; done; sync; echo $i > /run/synced; sleep 0.1; done) > /dev/null 2>&1 & true`, b.times))
	if err := b.m.AwaitAgent(b.ctx); err != nil {
		b.Fatal(err)
	}
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

// synced is how many files are written, summed and synced by now, on each disk.
func (b *busy) synced() int {
	b.Helper()
	for range 50 {
		if n, err := strconv.Atoi(b.shell("cat /run/synced")); err == nil {
			b.written[b.times] = n
			return n
		}
		time.Sleep(20 * time.Millisecond) // it was being written
	}
	b.Fatal("the guest does not count its files")
	return 0
}

// goesOn waits until the guest has synced so many files more.
func (b *busy) goesOn(more int) {
	b.Helper()
	end := time.Now().Add(time.Minute)
	for want := b.synced() + more; b.synced() < want; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("the guest does not get to %d files: it stands still", want)
		}
	}
}

// unharmed wants nothing of ours in QEMU, and a guest that writes and is not frozen.
func (b *busy) unharmed() {
	b.Helper()
	left, err := qemutest.Remains(func(command string, args, out any) error { return b.m.Command(b.ctx, command, args, out) })
	if err != nil || len(left) > 0 {
		b.Errorf("left in QEMU: %v, %v", left, err)
	}
	b.goesOn(1)
}

// thawed asks the guest's agent.
func (b *busy) thawed() {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	a, err := agent.Dial(ctx, b.m.Agent)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	if frozen, err := a.Frozen(ctx); err != nil || frozen {
		b.Errorf("the agent says: frozen %t, %v", frozen, err)
	}
}

// taken is a point with what is told of it, and what was synced before.
type taken struct {
	ID, Consistency, Scan string
	Reason                string `json:"scan_reason"`
	Why                   string `json:"-"` // of its consistency
	Stood                 time.Duration
	files                 map[int]int
}

// point backs the guest up, which must bear it, and returns what is told of the point.
func (b *busy) point(flags ...string) (p taken) {
	b.Helper()
	b.goesOn(1)
	files := maps.Clone(b.written)
	s := b.summarize("qemu:"+b.m.QMP, flags...)
	b.unharmed()
	var listed []taken
	if err := json.Unmarshal(b.run("points", "--json"), &listed); err != nil {
		b.Fatal(err)
	}
	i := slices.IndexFunc(listed, func(t taken) bool { return t.ID == s.Points[0] })
	if i < 0 {
		b.Fatalf("point %s is not listed", s.Points[0])
	}
	p = listed[i]
	p.files = files
	for _, f := range b.facts() {
		if f.Type == "SnapshotReleased" && (f.Verdict != "unchanged" || f.Detail != "" || b.Failed()) {
			b.Logf("released: %+v", f)
		}
		if f.Type == "SnapshotTaken" {
			p.Stood, p.Why = time.Duration(f.FreezeNS), f.Reason
			if f.Consistency != p.Consistency {
				b.Errorf("the fact says %s, the list %s", f.Consistency, p.Consistency)
			}
		}
	}
	b.Logf("%v: %s (%s), stood still %v; %s (%s)", flags, p.Consistency, p.Why, p.Stood, p.Scan, p.Reason)
	return p
}

// wants checks what is told of a point.
func (b *busy) wants(p taken, consistency, scan string) {
	b.Helper()
	if p.Consistency != consistency || p.Scan != scan || p.Stood <= 0 {
		b.Errorf("%s (%s), stood still %v, %s (%s); want %s, %s", p.Consistency, p.Why, p.Stood, p.Scan, p.Reason, consistency, scan)
	}
}

// fact is what these tests look at of the facts of a job.
type fact struct {
	Type, Consistency, Reason, Verdict, Detail string
	FreezeNS                                   int64 `json:"freeze_ns"`
}

// facts are those of the newest job.
func (b *busy) facts() []fact {
	b.Helper()
	var story struct{ Facts []fact }
	if err := json.Unmarshal(b.run("audit", "show", "--json"), &story); err != nil {
		b.Fatal(err)
	}
	return story.Facts
}

// summarize backs up one source.
func (p *product) summarize(source string, flags ...string) (s summary) {
	p.Helper()
	out := p.run(append([]string{"backup", "--json", source}, flags...)...)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.Outcome != "done" || len(s.Points) != 1 {
		p.Fatalf("backup: %v: %s", err, lines[len(lines)-1])
	}
	return s
}

// refused backs the guest up, which must not be done: it ends with exit code 3 and one
// error in which these words are, and there is no point of it.
func (b *busy) refused(words []string, flags ...string) {
	b.Helper()
	before := string(b.run("points", "--json"))
	out, said, err := b.try(append([]string{"backup", "--json", "qemu:" + b.m.QMP}, flags...)...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		b.Errorf("backup %v: %v, want exit code 3: %s%s", flags, err, out, said)
	}
	for _, w := range words {
		if !strings.Contains(string(out), w) {
			b.Errorf("backup %v does not say %q: %s", flags, w, out)
		}
	}
	if after := string(b.run("points", "--json")); after != before {
		b.Errorf("there are other points now: %s", after)
	}
	b.unharmed()
}

// rootAt is where in the system disk its root file system begins (see build.sh).
const rootAt = 33 << 20

// check restores a point and holds both file systems against what the guest had synced
// before it: they are sound, and each file is there, whole.
func (b *busy) check(p taken) (system string) {
	b.Helper()
	out := filepath.Join(b.dir, "restored-"+p.ID[:8])
	b.run("restore", p.ID, "--to", out, "--format", "raw", "--quiet")
	system, data, root := filepath.Join(out, "disk0.raw"), filepath.Join(out, "disk1.raw"), filepath.Join(out, "root")
	// e2fsck forgets where in a file to look once it has replayed a journal.
	if said, err := exec.CommandContext(b.ctx, "dd", "if="+system, "of="+root, "bs=1M", fmt.Sprint("skip=", rootAt>>20), "conv=sparse").CombinedOutput(); err != nil {
		b.Fatalf("dd: %v: %s", err, said)
	}
	for _, fs := range [][2]string{{data, ""}, {root, "/srv"}} {
		if p.Consistency == "crash-consistent" { // its journal is replayed
			c := exec.CommandContext(b.ctx, "/usr/sbin/e2fsck", "-fy", fs[0])
			if said, err := c.CombinedOutput(); err != nil && c.ProcessState.ExitCode() != 1 { // 1: mended
				b.Errorf("point %s: e2fsck -fy: %v: %s", p.ID[:8], err, said)
			}
		}
		if said, err := exec.CommandContext(b.ctx, "/usr/sbin/e2fsck", "-fn", fs[0]).CombinedOutput(); err != nil || strings.Contains(string(said), "skipping journal recovery") {
			b.Errorf("point %s: e2fsck -fn: %v: %s", p.ID[:8], err, said)
		}
		for run, atLeast := range p.files {
			b.whole(p, fs[0], fmt.Sprintf("%s/w%d", fs[1], run), atLeast)
		}
	}
	return system
}

// whole takes a folder out of a file system and wants so many files in it, each with its
// sum.
func (b *busy) whole(p taken, fs, folder string, atLeast int) {
	b.Helper()
	b.scratch++
	files := filepath.Join(b.dir, fmt.Sprint("files", b.scratch))
	if err := os.Mkdir(files, 0o700); err != nil {
		b.Fatal(err)
	}
	if said, err := exec.CommandContext(b.ctx, "/usr/sbin/debugfs", "-R", "rdump "+folder+" "+files, fs).CombinedOutput(); err != nil {
		b.Fatalf("debugfs: %v: %s", err, said)
	}
	files = filepath.Join(files, filepath.Base(folder))
	sums, err := os.ReadFile(filepath.Join(files, "sums"))
	if err != nil && atLeast > 0 {
		b.Errorf("point %s: %s: %v", p.ID[:8], folder, err)
	}
	right := 0
	for line := range strings.Lines(string(sums)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		content, err := os.ReadFile(filepath.Join(files, filepath.Base(name)))
		if got := sha256.Sum256(content); ok && err == nil && hex.EncodeToString(got[:]) == sum {
			right++
		} else if right < atLeast { // what came after the last sync may be there in part
			b.Errorf("point %s: %s/%s of %d that were synced: %v", p.ID[:8], folder, name, atLeast, err)
			return
		}
	}
	if right < atLeast {
		b.Errorf("point %s: %s has %d whole files, %d were synced before it", p.ID[:8], folder, right, atLeast)
	}
	b.Logf("point %s: %s: %d whole files, %d synced before", p.ID[:8], folder, right, atLeast)
}
