package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-backup/millrace/bench/workload"
)

// own gives the process and all it starts a group of its own, as a shell does.
func own(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// TestFailures runs the program as a stranger would, built without the race
// detector, and lets things go wrong: each time the exit code and the error are
// those of docs/operator.md, nothing half-written is listed, and the next backup
// works.
func TestFailures(t *testing.T) {
	if testing.Short() {
		t.Skip("some forty jobs: a minute or two")
	}
	t.Parallel()
	exe := program(t)
	for _, one := range []struct {
		name string
		test func(*testing.T, string)
	}{
		{"truncated image", truncatedImage},
		{"image that changes", imageThatChanges},
		{"image that never holds still", imageThatNeverHoldsStill},
		{"vault on a full disk", vaultOnAFullDisk},
		{"vault without any room", vaultWithoutAnyRoom},
		{"read only vault", readOnlyVault},
		{"interrupted job", interruptedJob},
		{"killed conductor", killedConductor},
	} {
		t.Run(one.name, func(t *testing.T) { one.test(t, exe) })
	}
}

// A VHDX that is shorter than its own tables say is not backed up as if the rest
// were there; another guest of the same job is.
func truncatedImage(t *testing.T, exe string) {
	for _, variant := range []string{"dynamic", "fixed"} {
		t.Run(variant, func(t *testing.T) {
			p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
			raw, good, cut := p.image("good.raw", 12), p.path("good.vhdx"), p.path("cut.vhdx")
			for _, disk := range []string{good, cut} {
				if err := workload.VHDX(t.Context(), raw, disk, variant); errors.Is(err, workload.ErrTool) {
					t.Skip(err)
				} else if err != nil {
					t.Fatal(err)
				}
			}
			info, err := os.Stat(cut)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(cut, info.Size()-5<<20); err != nil {
				t.Fatal(err)
			}
			r := p.start("backup", cut)
			p.fault(r.end(3), "part-failed", "back up", "job "+r.job(), "1 of 1 guests have no new point", "errors above")
			p.fault(r.guestFault(), "image-truncated", "inspect", cut, "file ends at", "copy or export it again")
			p.points(0)
			r = p.start("backup", cut, good)
			r.end(3)
			p.fault(r.guestFault(), "image-truncated", "inspect", cut, "file ends at", "copy or export it again")
			p.points(1)
			p.run(0, "restore", "latest", "--to", p.path("out.raw"))
			same(t, raw, p.path("out.raw"))
		})
	}
}

// job is the short id of the job the process ran.
func (r *process) job() string {
	return strings.TrimPrefix(r.lines[len(r.lines)-2].Object, "job ") // before the summary
}

// writer opens the image before the job begins and returns what writes to it.
type writer func(t *testing.T, image string) (write func(round int))

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// scribble writes a few bytes that are others each round.
func scribble(t *testing.T, f *os.File, round int) {
	_, err := f.WriteAt([]byte{byte(round), byte(round >> 8), 0x5a}, 5<<20)
	must(t, err)
}

func openImage(t *testing.T, image string) *os.File {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// ways are how a program can write to a disk image while it is backed up.
func ways() map[string]writer {
	return map[string]writer{
		"write": func(t *testing.T, image string) func(int) {
			f := openImage(t, image)
			return func(round int) { scribble(t, f, round) }
		},
		// The page is dirty before the job begins: without a flush, a store to it
		// would leave no trace in the file's times.
		"mmap": func(t *testing.T, image string) func(int) {
			m, err := unix.Mmap(int(openImage(t, image).Fd()), 0, 8<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { must(t, unix.Munmap(m)) })
			m[5<<20] = 0xff
			return func(round int) { m[5<<20], m[5<<20+1] = byte(round), byte(round>>8) }
		},
		"mtime set back": func(t *testing.T, image string) func(int) {
			f := openImage(t, image)
			was, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			return func(round int) {
				scribble(t, f, round)
				must(t, os.Chtimes(image, time.Time{}, was.ModTime()))
			}
		},
		"opened meanwhile": func(t *testing.T, image string) func(int) {
			return func(round int) {
				if f := openImage(t, image); round%2 == 0 { // even opening it breaks the lease
					scribble(t, f, round)
				}
			}
		},
		"replaced": func(t *testing.T, image string) func(int) {
			other, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			return func(int) {
				must(t, os.WriteFile(image+".new", other, 0o600))
				must(t, os.Rename(image+".new", image))
			}
		},
	}
}

// Whoever writes to an image after it was frozen, and however: no point of it is
// made, and the job says why.
func imageThatChanges(t *testing.T, exe string) {
	shared, earlier := newPlace(t, exe, filepath.Join(t.TempDir(), "vault")), 0
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			p := shared.with(t)
			image := p.image(name+".raw", 48)
			write := way(t, image)
			r := p.start("backup", image)
			end := r.slow("seal") // else it may be over before it is written to
			r.until(func(l line) bool { return l.Kind == "SnapshotTaken" })
			stop := keepWriting(write)
			time.Sleep(500 * time.Millisecond)
			end()
			last := r.end(3)
			stop()
			p.fault(last, "part-failed", "back up", "job "+r.job(), "1 of 1 guests have no new point", "errors above")
			// The file's times, its lease or the bytes themselves: whichever tells first.
			p.fault(r.guestFault(), "source-changed", "read image", image, "", "shut the guest down")
			p.wellAgain(image, earlier)
			earlier++
		})
	}
}

// An image that is never still is not waited for without end.
func imageThatNeverHoldsStill(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk.raw", 8)
	stop := keepWriting(ways()["write"](t, image))
	r := p.start("backup", image)
	r.end(3)
	stop()
	p.fault(r.guestFault(), "source-changed", "read image", image, "", "shut the guest down")
	p.wellAgain(image, 0)
}

// keepWriting writes every few milliseconds until stop is called.
func keepWriting(write func(round int)) (stop func()) {
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for round := 0; ; round++ {
			write(round)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(done); <-over }
}

// mountVault gives the vault a small file system of its own, or skips.
func mountVault(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	folder := t.TempDir()
	if err := unix.Mount("millrace-test", folder, "tmpfs", 0, options); err != nil {
		t.Skipf("mounting a tmpfs is not allowed here: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(folder, unix.MNT_DETACH)) })
	return folder
}

func remount(t *testing.T, folder string, flags uintptr, options string) {
	t.Helper()
	if err := unix.Mount("millrace-test", folder, "tmpfs", unix.MS_REMOUNT|flags, options); err != nil {
		t.Fatal(err)
	}
}

// A disk that fills up under the vault ends the job; with more room the next one
// goes on from the packs that were whole.
func vaultOnAFullDisk(t *testing.T, exe string) {
	folder := mountVault(t, "size=44m")
	p := newPlace(t, exe, folder)
	image := p.image("disk.raw", 64)
	p.fault(p.run(1, "backup", image), "store-full", "write a pack", folder, "no space left on device", "make room on the vault's disk")
	remount(t, folder, 0, "size=200m")
	if s := p.wellAgain(image, 0); s.Known == 0 {
		t.Errorf("nothing of what had been stored was found again: %+v", s)
	}
}

// Not even the first word of a job fits: that, too, is a full disk.
func vaultWithoutAnyRoom(t *testing.T, exe string) {
	folder := mountVault(t, "size=1m")
	p := newPlace(t, exe, folder)
	fill(t, filepath.Join(folder, "filler"))
	image := p.image("disk.raw", 8)
	p.fault(p.run(1, "backup", image), "store-full", "write a heartbeat to", folder, "no space left on device", "make room on the vault's disk")
	must(t, os.Remove(filepath.Join(folder, "filler")))
	remount(t, folder, 0, "size=64m")
	p.wellAgain(image, 0)
}

// fill takes all room there is.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

func readOnlyVault(t *testing.T, exe string) {
	folder := mountVault(t, "size=64m")
	p := newPlace(t, exe, folder)
	image := p.image("disk.raw", 8)
	remount(t, folder, unix.MS_RDONLY, "")
	p.fault(p.run(1, "backup", image), "store-read-only", "write a heartbeat to", folder, "read-only file system", "mount it writable")
	remount(t, folder, 0, "")
	p.wellAgain(image, 0)
}

// Ctrl-C reaches every process of the job; kill reaches one. Either way the job
// ends in order, and the next finds what was stored.
func interruptedJob(t *testing.T, exe string) {
	shared, earlier := newPlace(t, exe, filepath.Join(t.TempDir(), "vault")), 0
	for name, signal := range map[string]func(pid int) error{
		"ctrl-c": func(pid int) error { return unix.Kill(-pid, unix.SIGINT) },
		"kill":   func(pid int) error { return unix.Kill(pid, unix.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			p := shared.with(t)
			image := p.image(name+".raw", 128)
			r := p.underWay(image)
			must(t, signal(r.cmd.Process.Pid))
			p.fault(r.end(130), "interrupted", "back up", p.vault, "interrupted", "what was stored is found again")
			r.allGone()
			if s := p.wellAgain(image, earlier); s.Known == 0 {
				t.Errorf("nothing of what had been stored was found again: %+v", s)
			}
			earlier++
		})
	}
}

// A conductor that is killed takes its workers with it and leaves a vault that
// the next job can use.
func killedConductor(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk.raw", 128)
	r := p.underWay(image)
	must(t, r.cmd.Process.Kill())
	r.end(-1)
	r.allGone()
	p.wellAgain(image, 0)
}

// underWay starts a job that stores slowly and returns when it has stored some.
func (p *place) underWay(image string) *process {
	p.Helper()
	r := p.start("backup", image, "--codec", "zstd", "--parallel", "seal=1", "--parcel", "4MiB") // in small steps
	p.Cleanup(r.slow("seal"))
	r.until(func(l line) bool { return l.Type == "status" && l.Done > 0 })
	return r
}

// slow stops a job's workers of a stage most of the time, for four seconds,
// so that the job lasts as long on a fast machine as what a test does to it. The
// function that it returns ends this.
func (r *process) slow(stage string) (end func()) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for ctx.Err() == nil {
			workers := r.workers(stage)
			for range 5 {
				for _, pid := range workers {
					_ = unix.Kill(pid, unix.SIGSTOP)
				}
				time.Sleep(35 * time.Millisecond)
				for _, pid := range workers {
					_ = unix.Kill(pid, unix.SIGCONT)
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}()
	return func() { cancel(); <-gone }
}

// workers are the job's processes of a stage.
func (r *process) workers(stage string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		group, err := unix.Getpgid(pid)
		args, _ := os.ReadFile(file)
		if err == nil && group == r.cmd.Process.Pid && strings.Contains(string(args), "stage\x00"+stage+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// allGone waits until no process of the job is left.
func (r *process) allGone() {
	r.p.Helper()
	for until := time.Now().Add(10 * time.Second); unix.Kill(-r.cmd.Process.Pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			r.p.Fatal("processes of the job outlive it")
		}
	}
}
