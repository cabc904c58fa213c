package folder_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder"
)

// guest is a guest with one disk in dir.
func guest(t *testing.T, dir string) (*folder.Driver, hypervisor.Guest, string) {
	t.Helper()
	path := put(t, filepath.Join(dir, "disk.raw"), image(8<<20, 3))
	d := folder.New(path, options)
	g, err := d.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d, g[0], g[0].Disks[0].Path
}

func freeze(t *testing.T, d *folder.Driver, g hypervisor.Guest, p hypervisor.Policy) hypervisor.Frozen {
	t.Helper()
	f, err := d.Freeze(t.Context(), g, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Release(context.Background(), false) })
	return f
}

// mapped is a file mapped into memory for writing, its first page already
// dirty, as a running guest's disk may be.
func mapped(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil { // the map keeps the file open for writing
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	b[0]++
	return b
}

// keepTimes puts a file's mtime back after change, as cp -p and rsync do.
func keepTimes(t *testing.T, path string, change func()) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	change()
	if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestEveryChangeIsSeen changes a frozen disk in every way there is, with and
// without a lease, in this process's sight and across a restart of the stage.
func TestEveryChangeIsSeen(t *testing.T) {
	changes := []struct {
		name   string
		change func(t *testing.T, path string, m []byte)
	}{
		{"write", func(t *testing.T, path string, _ []byte) { must(t, overwrite(path, 4096, []byte{1})) }},
		{"write of the same bytes", func(t *testing.T, path string, _ []byte) {
			must(t, overwrite(path, 0, nil))
			must(t, overwrite(path, 0, []byte{0}))
		}},
		{"store to the page that was dirty", func(_ *testing.T, _ string, m []byte) { m[0]++ }},
		{"store to another page", func(_ *testing.T, _ string, m []byte) { m[9*4096]++ }},
		{"write with mtime put back", func(t *testing.T, path string, _ []byte) {
			keepTimes(t, path, func() { must(t, overwrite(path, 4096, []byte{1})) })
		}},
		{"another file renamed over it", func(t *testing.T, path string, _ []byte) {
			b, err := os.ReadFile(path)
			must(t, err)
			keepTimes(t, path, func() { must(t, os.Rename(put(t, path+".new", b), path)) })
		}},
		{"removed", func(t *testing.T, path string, _ []byte) { must(t, os.Remove(path)) }},
		{"shrunk", func(t *testing.T, path string, _ []byte) { must(t, os.Truncate(path, 1<<20)) }},
		{"grown", func(t *testing.T, path string, _ []byte) { must(t, os.Truncate(path, 9<<20)) }},
		{"shrunk and grown back", func(t *testing.T, path string, _ []byte) {
			keepTimes(t, path, func() { must(t, os.Truncate(path, 1<<20)); must(t, os.Truncate(path, 8<<20)) })
		}},
	}
	for _, c := range changes {
		for _, running := range []bool{false, true} {
			name := c.name
			if running {
				name += ", mapped by a writer"
			}
			t.Run(name, func(t *testing.T) {
				d, g, path := guest(t, t.TempDir())
				m := make([]byte, 1<<20)
				if running {
					m = mapped(t, path)
				}
				if !running && strings.HasPrefix(c.name, "store") {
					t.Skip("there is no map without a writer")
				}
				f := freeze(t, d, g, hypervisor.AppPreferred)
				if got, want := f.Consistency, map[bool]string{false: hypervisor.Offline, true: hypervisor.CrashConsistent}[running]; got != want {
					t.Errorf("consistency %q, want %q (%s)", got, want, f.Reason)
				}
				must(t, f.Changed(t.Context()))
				c.change(t, path, m)
				if err := f.Changed(t.Context()); !errors.Is(err, hypervisor.ErrChanged) || !strings.Contains(err.Error(), "disk.raw") {
					t.Errorf("changed: %v", err)
				}
				if r, err := d.Resume(t.Context(), g, f.Record()); !errors.Is(err, hypervisor.ErrChanged) {
					t.Errorf("resume: %v", err)
					_ = r.Release(t.Context(), false)
				}
			})
		}
	}
}

// TestNoFalseAlarm reads, lists and stats a frozen disk, with readers that map
// it and a writer that has it open but does nothing.
func TestNoFalseAlarm(t *testing.T) {
	for _, running := range []bool{false, true} {
		d, g, path := guest(t, t.TempDir())
		if running {
			mapped(t, path)
		}
		f := freeze(t, d, g, hypervisor.AppPreferred)
		r, err := os.Open(path)
		must(t, err)
		defer r.Close()
		m, err := unix.Mmap(int(r.Fd()), 0, 1<<20, unix.PROT_READ, unix.MAP_SHARED)
		must(t, err)
		_ = m[5000]
		must(t, unix.Munmap(m))
		_, err = os.ReadFile(path)
		must(t, err)
		_, err = os.ReadDir(filepath.Dir(path))
		must(t, err)
		_, err = d.Inspect(t.Context())
		must(t, err)
		for range 3 {
			if err := f.Changed(t.Context()); err != nil {
				t.Errorf("mapped by a writer %v: %v", running, err)
			}
		}
		again, err := d.Resume(t.Context(), g, f.Record())
		if err != nil {
			t.Errorf("mapped by a writer %v: resume: %v", running, err)
		} else {
			must(t, again.Release(t.Context(), false))
		}
	}
}

// TestWriterIsNotHeldUp opens a leased disk for writing, here and in another
// process. Both get through at once, and both are remembered though they write
// nothing.
func TestWriterIsNotHeldUp(t *testing.T) {
	for name, write := range map[string]func(path string) error{
		"this process":    func(path string) error { return overwrite(path, 0, nil) },
		"another process": func(path string) error { return exec.Command("sh", "-c", `: >>"$1"`, "sh", path).Run() },
		"without waiting": func(path string) error {
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK, 0)
			if err == nil {
				return unix.Close(fd)
			}
			if errors.Is(err, unix.EAGAIN) {
				return nil // told to come back, and counted as a writer
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, g, path := guest(t, t.TempDir())
			f := freeze(t, d, g, hypervisor.AppRequired) // which a lease satisfies
			if f.RecheckPercent != 1 {
				t.Errorf("recheck %d %%", f.RecheckPercent)
			}
			begin := time.Now()
			must(t, write(path))
			took := time.Since(begin)
			t.Logf("the writer was let through after %v", took)
			if took > time.Second {
				t.Errorf("the writer was held up for %v", took)
			}
			if err := f.Changed(t.Context()); !errors.Is(err, hypervisor.ErrChanged) {
				t.Errorf("changed: %v", err)
			}
			begin = time.Now()
			must(t, overwrite(path, 0, nil))
			if took := time.Since(begin); took > time.Second {
				t.Errorf("a second writer was held up for %v", took)
			}
		})
	}
}

// TestManyWriters opens several leased disks of several freezes at once: all
// share one signal.
func TestManyWriters(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for i := range 12 {
		paths = append(paths, put(t, filepath.Join(dir, string(rune('a'+i))+".raw"), image(20_000, uint64(i))))
	}
	d := folder.New(dir, options)
	g, err := d.Inspect(t.Context())
	must(t, err)
	var all []hypervisor.Frozen
	for range 3 {
		all = append(all, freeze(t, d, g[0], hypervisor.AppRequired))
	}
	begin := time.Now()
	done := make(chan error)
	for _, path := range paths {
		go func() { done <- overwrite(path, 0, nil) }()
	}
	for range paths {
		must(t, <-done)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("writers were held up for %v", took)
	}
	for _, f := range all {
		if err := f.Changed(t.Context()); !errors.Is(err, hypervisor.ErrChanged) {
			t.Errorf("changed: %v", err)
		}
	}
}

func TestPolicyWithAWriter(t *testing.T) {
	d, g, path := guest(t, t.TempDir())
	mapped(t, path)
	if _, err := d.Freeze(t.Context(), g, hypervisor.AppRequired); !errors.Is(err, hypervisor.ErrConsistency) {
		t.Errorf("app-required: %v", err)
	}
	if _, err := d.Freeze(t.Context(), g, "nonsense"); err == nil {
		t.Error("an unknown policy was taken")
	}
	f := freeze(t, d, g, hypervisor.CrashOnly)
	if f.Consistency != hypervisor.CrashConsistent || !strings.Contains(f.Reason, "open for writing") {
		t.Errorf("%+v", f)
	}
}

// TestBusyWriter freezes a disk that is written all the time. It is refused; or,
// if the writer did not get to run for as long as Freeze looks, it has changed
// once the writer has written again.
func TestBusyWriter(t *testing.T) {
	d, g, path := guest(t, t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	ended, wrote := make(chan error, 1), make(chan struct{})
	go func() {
		w, err := os.OpenFile(path, os.O_RDWR, 0)
		for n := 0; err == nil && ctx.Err() == nil; n++ {
			_, err = w.WriteAt([]byte{byte(n)}, 0)
			select {
			case wrote <- struct{}{}:
			default:
			}
		}
		ended <- errors.Join(err, w.Close())
	}()
	<-wrote
	f, err := d.Freeze(t.Context(), g, hypervisor.CrashOnly)
	if err == nil {
		<-wrote // may be of a write before the freeze had ended
		<-wrote
		err = f.Changed(t.Context())
		must(t, f.Release(t.Context(), false))
	}
	if !errors.Is(err, hypervisor.ErrChanged) {
		t.Errorf("neither refused nor noticed: %v", err)
	}
	stop()
	must(t, <-ended)
}

// TestWithoutStamps is about tmpfs, where stores through a map leave no trace.
func TestWithoutStamps(t *testing.T) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Skip("needs a tmpfs at /dev/shm")
	}
	dir, err := os.MkdirTemp("/dev/shm", "millrace-test-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d, g, path := guest(t, dir)
	f := freeze(t, d, g, hypervisor.CrashOnly)
	if f.Consistency != hypervisor.Offline || f.RecheckPercent != 1 {
		t.Errorf("leased: %+v", f)
	}
	again, err := d.Resume(t.Context(), g, f.Record())
	must(t, err)
	if again.RecheckPercent != 100 {
		t.Errorf("a lease that was interrupted proves nothing: %+v", again)
	}
	must(t, again.Release(t.Context(), false))
	must(t, f.Release(t.Context(), false))
	mapped(t, path)
	if f := freeze(t, d, g, hypervisor.CrashOnly); f.Consistency != hypervisor.CrashConsistent || f.RecheckPercent != 100 {
		t.Errorf("with a writer: %+v", f)
	}
}

// TestPipes looks at a folder with a pipe that nobody writes to, and at a path
// that became one.
func TestPipes(t *testing.T) {
	dir := t.TempDir()
	d, g, path := guest(t, dir)
	must(t, os.Remove(path))
	must(t, unix.Mkfifo(path, 0o600))
	if _, err := d.Freeze(t.Context(), g, hypervisor.CrashOnly); err == nil {
		t.Error("a pipe was frozen")
	}
	put(t, filepath.Join(dir, "other.img"), image(10_000, 1))
	found, err := folder.New(dir, options).Inspect(t.Context())
	must(t, err)
	if g := found[0]; len(g.Disks) != 1 || len(g.Unprotected) != 1 {
		t.Errorf("%+v", g)
	}
	if _, err := d.Open(t.Context(), g.Disks[0]); err == nil {
		t.Error("a pipe was opened")
	}
}

// TestLinkSwappedIn replaces a disk by a link to the same bytes elsewhere.
func TestLinkSwappedIn(t *testing.T) {
	d, g, path := guest(t, t.TempDir())
	must(t, os.Rename(path, path+".moved"))
	must(t, os.Symlink(path+".moved", path))
	if image, err := d.Open(t.Context(), g.Disks[0]); err == nil {
		t.Error("a link was followed")
		_ = image.Close()
	}
}
