package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBadNeighbours runs the program while what it stands on gives way: the vault's
// disk goes, the state folder's fills up or cannot be written to, shared memory is
// scarce. Each time the job ends in bounded time, as the table in docs/operator.md
// says, nothing half-written is listed, and the next job works.
func TestBadNeighbours(t *testing.T) {
	if testing.Short() {
		t.Skip("some twenty jobs: a minute")
	}
	t.Parallel()
	exe := program(t)
	for _, one := range []struct {
		name string
		test func(*testing.T, string)
	}{
		{"vault unplugged", vaultUnplugged},
		{"vault moved away", vaultMovedAway},
		{"state folder on a full disk", stateOnAFullDisk},
		{"state folder read-only", stateReadOnly},
		{"state folder of another user", stateOfAnother},
		{"tiny arena", tinyArena},
		{"no room for the arena", noRoomForTheArena},
	} {
		t.Run(one.name, func(t *testing.T) { one.test(t, exe) })
	}
}

// bind shows the folder from at the place to.
func bind(t *testing.T, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("a bind mount is not allowed here: %v", err)
	}
}

// ended waits for a job that may end well or with one of these codes; it must not
// take for ever.
func (r *process) ended(codes ...string) line {
	r.p.Helper()
	for {
		if _, err := r.read(); err != nil {
			break
		}
	}
	_ = r.cmd.Wait()
	var fault line
	for _, l := range r.lines {
		if l.Type == "error" {
			fault = l
		}
	}
	ok := r.cmd.ProcessState.ExitCode() == 0 && fault.Code == ""
	for _, c := range codes {
		ok = ok || fault.Code == c && fault.Remedy != "" && fault.Object != ""
	}
	if !ok {
		r.p.Fatalf("exit code %d, %+v, want success or one of %v\n%s", r.cmd.ProcessState.ExitCode(), fault, codes, r.stderr.String())
	}
	return fault
}

// The vault is the root of a disk that is unmounted in mid-job and comes back: its
// folder is there meanwhile, and empty. Nothing may be written below the mount.
func vaultUnplugged(t *testing.T, exe string) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	disk, mount := t.TempDir(), t.TempDir()
	bind(t, disk, mount)
	t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) })
	p := newPlace(t, exe, mount)
	image := p.image("disk.raw", 128)
	r := p.underWay(image)
	must(t, unix.Unmount(mount, unix.MNT_DETACH))
	// Long enough for a pack to be due; the job waits for the disk.
	time.Sleep(2 * time.Second)
	if left, err := os.ReadDir(mount); err != nil || len(left) > 0 {
		t.Errorf("below the mount point: %v, %v", left, err)
	}
	bind(t, disk, mount)
	r.ended() // well: it has waited
	r.allGone()
	p.wellAgain(image, 1)
}

// The vault's folder is renamed away and comes back.
func vaultMovedAway(t *testing.T, exe string) {
	folder := filepath.Join(t.TempDir(), "vault")
	p := newPlace(t, exe, folder)
	image := p.image("disk.raw", 128)
	r := p.underWay(image)
	must(t, os.Rename(folder, folder+"-away"))
	time.Sleep(2 * time.Second)
	if _, err := os.Stat(folder); err == nil {
		t.Error("the vault's folder was made anew")
	}
	must(t, os.Rename(folder+"-away", folder))
	r.ended() // well: it has waited
	r.allGone()
	p.wellAgain(image, 1)
}

// The disk of the state folder fills up in mid-job.
func stateOnAFullDisk(t *testing.T, exe string) {
	state := mountVault(t, "size=8m")
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	p.state = state
	image := p.image("disk.raw", 128)
	r := p.underWay(image)
	fill(t, filepath.Join(state, "filler"))
	points := 0
	if f := r.ended("disk-full"); f.Code == "" {
		points = 1 // what it had to write there was written before
	} else if !strings.Contains(f.Cause, state) {
		t.Errorf("the cause does not name the file: %+v", f)
	}
	r.allGone()
	p.start("backup", image).ended("disk-full") // full from the start
	must(t, os.Remove(filepath.Join(state, "filler")))
	p.wellAgain(image, p.count(points))
}

// count is how many points are listed, at least so many.
func (p *place) count(least int) int {
	p.Helper()
	n := 0
	for l := range strings.SplitSeq(p.text("points"), `"id"`) {
		_ = l
		n++
	}
	if n--; n < least {
		p.Fatalf("%d points, want at least %d", n, least)
	}
	return n
}

// text is all that a command prints.
func (p *place) text(args ...string) string {
	p.Helper()
	c := exec.CommandContext(p.Context(), p.exe, append(args, "--json")...)
	c.Env = append(os.Environ(), "MILLRACE_VAULT="+p.vault, "MILLRACE_STATE="+p.state, "MILLRACE_PASSWORD_FILE="+p.path("password"))
	own(c)
	if p.as != nil {
		p.as(c)
	}
	out, err := c.Output()
	if err != nil {
		p.Fatalf("%v: %v", args, err)
	}
	return string(out)
}

// A state folder that cannot be written to: a job cannot be run, reading can.
func stateReadOnly(t *testing.T, exe string) {
	state := mountVault(t, "size=64m")
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	p.state = state
	image := p.image("disk.raw", 16)
	p.run(0, "backup", image)
	remount(t, state, unix.MS_RDONLY, "")
	f := p.start("backup", image).ended("not-permitted", "failed")
	if f.Code == "" || !strings.Contains(f.Cause, state) {
		t.Errorf("a job without a state folder: %+v", f)
	}
	p.text("verify", "--read-data")
	out := p.path("restored.raw")
	p.run(0, "restore", "latest", "--to", out)
	same(t, image, out)
	remount(t, state, 0, "")
	p.wellAgain(image, 1)
}

// The state folder may be read and not written to by this user; then not even read.
// Modes do not bind root, who becomes somebody else for this.
func stateOfAnother(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	older := filepath.Join(p.dir, "older")
	p.run(0, "backup", p.image("disk.raw", 4))
	must(t, os.CopyFS(older, os.DirFS(p.vault)))
	p.run(0, "backup", p.image("disk.raw", 8))
	const nobody = 65534
	if os.Geteuid() == 0 {
		p.as = func(c *exec.Cmd) {
			c.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true}
		}
		for _, folder := range []string{filepath.Dir(exe), p.dir, p.vault, p.state} {
			must(t, os.Chmod(filepath.Dir(folder), 0o755)) // the tests' own
		}
		for _, folder := range []string{p.dir, p.vault} {
			must(t, filepath.WalkDir(folder, func(path string, _ os.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, nobody, nobody))
			}))
		}
	}
	modes := func(folder, file os.FileMode) {
		must(t, filepath.WalkDir(p.state, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(path, folder)
			}
			return errors.Join(err, os.Chmod(path, file))
		}))
	}
	t.Cleanup(func() { modes(0o700, 0o600) })
	image, out := p.path("disk.raw"), p.path("restored.raw")
	modes(0o555, 0o444)
	f := p.run(1, "backup", image)
	p.fault(f, "not-permitted", "make the job's folder", f.Object, "permission denied", "--state")
	p.points(2)
	p.text("verify", "--read-data")
	p.run(0, "restore", "latest", "--to", out)
	same(t, image, out)
	// What is remembered counts as before.
	must(t, os.Rename(p.vault, p.path("newer")))
	must(t, os.Rename(older, p.vault))
	if f := p.run(4, "points"); f.Code != "rollback" {
		t.Errorf("an older vault: %+v", f)
	}
	must(t, os.Rename(p.vault, older))
	must(t, os.Rename(p.path("newer"), p.vault))
	// What cannot be read is not taken for what is not there.
	must(t, os.Chmod(filepath.Join(p.state, "checkpoints"), 0))
	f = p.run(1, "points")
	p.fault(f, "not-permitted", "read remembered checkpoint", f.Object, "permission denied", "the right to read it")
	modes(0o700, 0o600)
	p.as = nil
	p.wellAgain(image, 2)
}

// The smallest arena: a few slots, through which everything goes. No stage may
// wait for a slot that another holds for it.
func tinyArena(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk.raw", 160)
	p.run(0, "backup", image, "--memory", "16MiB")
	p.run(0, "backup", image, "--memory", "16MiB", "--scan", "full", "--parallel", "seal=4,chunker=2,reader=2,uploader=2")
	p.wellAgain(image, 2)
	p.run(2, "backup", image, "--memory", "8MiB")
}

// The system gives no memory for the arena: the job says so.
func noRoomForTheArena(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk.raw", 16)
	// A limit on the size of files is one on shared memory too.
	limited := filepath.Join(t.TempDir(), "limited")
	must(t, os.WriteFile(limited, []byte("#!/bin/sh\nulimit -f 65536\nexec "+exe+" \"$@\"\n"), 0o700))
	q := p.with(t)
	q.exe = limited
	f := q.start("backup", image).ended("failed", "disk-full")
	if f.Code == "" {
		t.Error("an arena of 200 MiB where files may have 32")
	}
	p.fault(f, "failed", "make the arena", "shared memory", "file too large", "--memory")
	q.run(0, "backup", image, "--memory", "16MiB")
	p.wellAgain(image, 1)
}
