package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	buildguest "github.com/millrace-backup/millrace/bench/guest"
	"github.com/millrace-backup/millrace/blockdev/nbd"
)

// runOf is what run start and list say of a run.
type runOf struct {
	Run, Name, State, Console, Serial string
	PID                               int
	Exports                           []struct{ Key, URI string }
	Fetched                           int64   `json:"fetched_bytes"`
	Duration                          float64 `json:"duration_s"`
}

func (r runOf) folder() string { return filepath.Dir(r.socket()) }

func (r runOf) socket() string {
	_, path, _ := strings.Cut(r.Exports[0].URI, "socket=")
	return path
}

// processes are those of a run that have a word in their command line.
func (r runOf) processes(word string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		cwd, err := os.Readlink(filepath.Join(p, "cwd"))
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if err == nil && cwd == r.folder() && bytes.Contains(line, []byte(word)) {
			pid, _ := strconv.Atoi(filepath.Base(p))
			pids = append(pids, pid)
		}
	}
	return pids
}

// kill ends the one process of a run with that word, as nothing it could notice does.
func (r runOf) kill(t *testing.T, word string) {
	t.Helper()
	pids := r.processes(word)
	if len(pids) != 1 {
		t.Fatalf("%d processes %q of the run", len(pids), word)
	}
	must(t, syscall.Kill(pids[0], syscall.SIGKILL))
}

// dial connects to the run's disk, which may be just about to be served again.
func (r runOf) dial(t *testing.T) *nbd.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		c, err := nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", r.socket())
		}, nbd.Options{Export: "disk0", Contexts: []string{nbd.Allocation}})
		if err == nil {
			return c
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestRunDisks: a point's disk is served to be written to, whatever is killed; what was
// acknowledged stays, and the point is what it was.
func TestRunDisks(t *testing.T) {
	if testing.Short() {
		t.Skip("jobs and processes")
	}
	t.Parallel()
	p := newPlace(t, program(t), filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk", 24)
	must(t, os.Truncate(image, 24<<20-100)) // is served in whole sectors
	p.run(0, "backup", image)
	content, err := os.ReadFile(image)
	must(t, err)
	content = append(content, make([]byte, 100)...)
	var r runOf
	p.show("run", &r, "start", "latest", "--name", "one")
	defer func() { _ = p.command("run", "stop", "one", "--discard").Run() }()
	same := func(c *nbd.Client) {
		t.Helper()
		got := make([]byte, len(content))
		_, err := c.ReadAt(got, 0)
		if must(t, err); !bytes.Equal(got, content) {
			t.Fatal("the disk has other bytes")
		}
	}
	c := r.dial(t)
	same(c)
	write := func() {
		t.Helper()
		for range 200 {
			b := make([]byte, 512*(1+rand.IntN(20)))
			_, _ = rand.NewChaCha8([32]byte{byte(rand.IntN(256))}).Read(b)
			at := rand.Int64N(int64(len(content)-len(b))/512) * 512
			_, err := c.WriteAt(b, at)
			must(t, err)
			copy(content[at:], b)
		}
	}
	write()
	r.kill(t, "rundirect") // not flushed: who wrote goes on, so the disk must not forget
	c = r.dial(t)
	same(c)
	write()
	must(t, c.Flush())
	r.kill(t, "supervise")
	for len(r.processes("rundirect")) > 0 { // leaves when its control pipe closes
		time.Sleep(10 * time.Millisecond)
	}
	var all []runOf
	if p.show("run", &all, "list"); len(all) != 1 || all[0].State != "ended" {
		t.Fatalf("listed %+v", all)
	}
	p.run(1, "run", "stop", "no such run", "--discard")
	// An overlay that cannot be read is said, and left as it is.
	journals, err := filepath.Glob(filepath.Join(r.folder(), "disks", "0", "journal.?"))
	must(t, err)
	for _, j := range journals {
		must(t, os.Rename(j, j+".away"))
	}
	p.run(1, "run", "resume", "one")
	for _, j := range journals {
		must(t, os.Rename(j+".away", j))
	}
	p.show("run", &r, "resume", "one")
	p.run(1, "run", "resume", "one") // it is supervised
	c = r.dial(t)
	same(c)
	must(t, c.Close())
	p.run(0, "run", "stop", "one", "--discard")
	if _, err := os.Lstat(r.folder()); !errors.Is(err, os.ErrNotExist) || len(r.processes("")) > 0 {
		t.Errorf("left: %v, %v", err, r.processes(""))
	}
	p.verify()
	out := p.path("out")
	p.run(0, "restore", "latest", "--to", out)
	was, err := os.ReadFile(image)
	must(t, err)
	if is, err := os.ReadFile(out); err != nil || !bytes.Equal(is, was) {
		t.Errorf("the point has changed: %v", err)
	}
}

// console types into a guest's serial port and reads what comes out.
type console struct {
	*testing.T
	conn  net.Conn
	lines *bufio.Scanner
	marks int
}

func (r runOf) console(t *testing.T) *console {
	t.Helper()
	conn, err := net.Dial("unix", r.Console)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &console{T: t, conn: conn, lines: bufio.NewScanner(conn)}
}

// until reads to the first line with these words.
func (c *console) until(words string) string {
	c.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(90 * time.Second))
	for c.lines.Scan() {
		if strings.Contains(c.lines.Text(), words) {
			return c.lines.Text()
		}
	}
	c.Fatalf("the guest does not say %q: %v", words, c.lines.Err())
	return ""
}

// shell runs a command in the guest, which has to succeed, and returns the last line it prints.
func (c *console) shell(command string) string {
	c.Helper()
	c.marks++
	_, err := fmt.Fprintf(c.conn, "%s; echo END$?''-%d\n", command, c.marks)
	must(c.T, err)
	_ = c.conn.SetReadDeadline(time.Now().Add(90 * time.Second))
	last := ""
	for c.lines.Scan() {
		line := strings.TrimSpace(c.lines.Text())
		if before, code, ok := strings.Cut(line, "END"); ok && !strings.Contains(line, "''") && strings.HasSuffix(code, fmt.Sprintf("-%d", c.marks)) {
			if !strings.HasPrefix(code, "0-") {
				c.Fatalf("%s: %s", command, line)
			}
			if before != "" {
				last = before
			}
			return last
		}
		if !strings.Contains(line, "END$?") {
			last = line
		}
	}
	c.Fatalf("%s: %v", command, c.lines.Err())
	return ""
}

// TestRunGuest: a Linux guest boots straight from its backup, goes on when what serves its
// disk is killed, and has what it has synced when its QEMU was killed and the run is resumed.
func TestRunGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots guests")
	}
	p := newPlace(t, program(t), filepath.Join(t.TempDir(), "vault"))
	image := p.path("guest.raw")
	if err := buildguest.Build(t.Context(), image, 192<<20, ""); errors.Is(err, buildguest.ErrMissing) {
		t.Skip(err)
	} else {
		must(t, err)
	}
	p.run(0, "backup", image)
	var r runOf
	out, err := p.command("run", "start", "latest", "--host", "qemu:", "--name", "one", "--isolated").Output()
	if bytes.Contains(out, []byte("no-qemu")) {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	must(t, err)
	defer func() { _ = p.command("run", "stop", "one", "--discard").Run() }()
	list := func() runOf {
		t.Helper()
		var all []runOf
		if p.show("run", &all, "list"); len(all) != 1 {
			t.Fatalf("%d runs", len(all))
		}
		return all[0]
	}
	r = list()
	c := r.console(t)
	c.until("GUEST-READY boots=1")
	c.shell("echo was here > /srv/note && sync")
	r.kill(t, "rundirect")
	c.shell("dd if=/dev/urandom of=/srv/noise bs=64k count=20 2>/dev/null && sync && echo 3 > /proc/sys/vm/drop_caches")
	sum := c.shell("sha256sum /srv/noise")
	r.kill(t, "supervise")
	if s := list(); s.State != "running, without its disks" && !strings.Contains(s.State, "without") {
		t.Errorf("without a supervisor it is %q", s.State)
	}
	p.run(0, "run", "resume", "one") // finds the guest, which has waited
	if again := list(); again.PID != r.PID || again.PID == 0 {
		t.Errorf("another QEMU: %d, was %d", again.PID, r.PID)
	}
	if is := c.shell("echo 3 > /proc/sys/vm/drop_caches; sha256sum /srv/noise"); is != sum {
		t.Errorf("%q, was %q", is, sum)
	}
	must(t, syscall.Kill(r.PID, syscall.SIGKILL))
	r.kill(t, "supervise")
	for len(r.processes("rundirect")) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	p.run(0, "run", "resume", "one")
	r = list()
	c = r.console(t)
	c.until("GUEST-READY boots=2")
	if is := c.shell("cat /srv/note && sha256sum /srv/noise"); is != sum {
		t.Errorf("after the power went: %q, was %q", is, sum)
	}
	// Kept, it is a point, from which it goes on.
	p.run(1, "run", "stop", "one", "--keep", "--grace", "1s") // nothing in it hears the button
	c.shell("sync")
	p.run(0, "run", "stop", "one", "--keep", "--grace", "0")
	p.run(0, "run", "start", "latest", "--host", "qemu:", "--name", "one", "--isolated")
	r = list()
	c = r.console(t)
	c.until("GUEST-READY boots=3")
	if is := c.shell("cat /srv/note && sha256sum /srv/noise"); is != sum {
		t.Errorf("kept: %q, was %q", is, sum)
	}
	// It moves home while it writes, and stays what it is.
	c.shell("(while :; do dd if=/dev/urandom of=/srv/busy bs=4k count=64 conv=fsync 2>/dev/null; done) & true")
	home := p.path("home")
	var moved struct {
		Files  []string
		Paused float64 `json:"paused_s"`
	}
	p.show("run", &moved, "finalize", "one", "--to", home)
	if len(moved.Files) != 1 || moved.Paused <= 0 || moved.Paused > 1 {
		t.Errorf("moved %+v", moved)
	}
	if len(r.processes("rundirect"))+len(r.processes("supervise")) > 0 {
		t.Error("the disks are served still")
	}
	if is := c.shell("kill %1; sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /srv/noise"); is != sum {
		t.Errorf("at home: %q, was %q", is, sum)
	}
	c.shell("echo home > /srv/note && sync")
	must(t, syscall.Kill(r.PID, syscall.SIGKILL))
	must(t, os.Rename(p.vault, p.vault+".away")) // which it needs no more
	p.resumeAtHome(sum)
	must(t, os.Rename(p.vault+".away", p.vault))
	p.run(0, "run", "stop", "one")
	keep := p.path("keep")
	p.run(0, "verify", "--boot", "latest", "--boot-keep", keep)
	if pictures, _ := filepath.Glob(filepath.Join(keep, "*.png")); len(pictures) != 1 {
		t.Errorf("pictures %v", pictures)
	}
	p.run(1, "verify", "--boot", "latest", "--boot-wait", "30ms")
	if p.show("run", &[]runOf{}, "list"); len(r.processes("")) > 0 {
		t.Error("left running")
	}
	fsck(t, moved.Files[0])
	p.verify()
}

// resumeAtHome starts the guest again from its own disks.
func (p *place) resumeAtHome(sum string) {
	p.Helper()
	p.run(0, "run", "resume", "one")
	var all []runOf
	p.show("run", &all, "list")
	c := all[0].console(p.T)
	c.until("GUEST-READY boots=4")
	if is := c.shell("cat /srv/note && sha256sum /srv/noise"); is != sum || all[0].State != "running, at home" {
		p.Errorf("started at home: %q, was %q, %s", is, sum, all[0].State)
	}
	if is := c.shell("cat /srv/note"); is != "home" {
		p.Errorf("the note says %q", is)
	}
	c.shell("mount -o remount,ro / ; sync")
}

// fsck wants the guest's file system to be in order.
func fsck(t *testing.T, disk string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "/sbin/e2fsck", "-fn", disk+"?offset=34603008").CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}
