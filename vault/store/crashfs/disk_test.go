package crashfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vault/store/dir"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// make1 makes a file of some bytes; what says which syncs follow.
func make1(t *testing.T, d *Disk, path, body string, sync, syncDir bool) dir.File {
	t.Helper()
	f, err := d.Create(path)
	must(t, err)
	_, err = f.Write([]byte(body))
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	if syncDir {
		must(t, d.SyncDir(filepath.Dir(path)))
	}
	return f
}

// outcomes are the contents that a file has after crashes: "-" stands for no file.
func outcomes(d *Disk, path string) map[string]bool {
	out := map[string]bool{}
	for seed := range uint64(300) {
		for _, m := range []Mode{Lost, Random, Kept} {
			b, err := d.Crash(m, seed).ReadFile(path)
			if err != nil {
				b = []byte("-")
			}
			out[string(b)] = true
		}
	}
	return out
}

func TestWhatAPowerCutLeavesOfOneFile(t *testing.T) {
	for _, c := range []struct {
		what          string
		sync, syncDir bool
		must, never   []string
	}{
		{"all synced", true, true, []string{"abc"}, []string{"-", ""}},
		{"file synced, name not", true, false, []string{"abc", "-"}, []string{""}},
		{"name synced, file not", false, true, []string{"abc", "", "\x00\x00\x00"}, []string{"-"}},
		{"nothing synced", false, false, []string{"abc", "", "-"}, nil},
	} {
		d := New("/a")
		make1(t, d, "/a/f", "abc", c.sync, c.syncDir)
		got := outcomes(d, "/a/f")
		for _, want := range c.must {
			if !got[want] {
				t.Errorf("%s: %q never came of it: %v", c.what, want, got)
			}
		}
		for _, bad := range c.never {
			if got[bad] {
				t.Errorf("%s: %q came of it", c.what, bad)
			}
		}
		if c.sync && c.syncDir && len(got) != 1 {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

func TestASyncedFolderInAnUnsyncedOneIsLost(t *testing.T) {
	d := New("/a")
	must(t, d.Mkdir("/a/b"))
	make1(t, d, "/a/b/f", "abc", true, true)
	if got := outcomes(d, "/a/b/f"); !got["-"] || !got["abc"] || len(got) != 2 {
		t.Errorf("parent not synced: %v", got)
	}
	must(t, d.SyncDir("/a"))
	if got := outcomes(d, "/a/b/f"); !got["abc"] || len(got) != 1 {
		t.Errorf("parent synced: %v", got)
	}
}

func TestWritesAreTornAndReordered(t *testing.T) {
	d := New("/a")
	f := make1(t, d, "/a/f", strings.Repeat("o", 4*sector), true, true)
	for _, letter := range []string{"A", "B"} {
		_, err := f.Write(bytes.Repeat([]byte(letter), 2*sector))
		must(t, err)
	}
	seen := map[string]bool{}
	for seed := range uint64(500) {
		b, err := d.Crash(Random, seed).ReadFile("/a/f")
		must(t, err)
		if string(b[:4*sector]) != strings.Repeat("o", 4*sector) {
			t.Fatal("synced bytes changed")
		}
		a, second := bytes.Count(b, []byte("A")), bytes.Count(b, []byte("B"))
		seen["A alone"] = seen["A alone"] || a > 0 && second == 0
		seen["B without A"] = seen["B without A"] || second > 0 && a == 0
		seen["A torn in a sector"] = seen["A torn in a sector"] || a%sector != 0
		seen["a sector missing between"] = seen["a sector missing between"] || a == sector && second > 0
		seen["length without bytes"] = seen["length without bytes"] || len(b) == 8*sector && a+second == 0
	}
	for _, want := range []string{"A alone", "B without A", "A torn in a sector", "a sector missing between", "length without bytes"} {
		if !seen[want] {
			t.Errorf("%s never happened", want)
		}
	}
}

func TestARenameIsOldOrNewAndNeverNeither(t *testing.T) {
	d := New("/a", "/b")
	make1(t, d, "/a/f", "old", true, true)
	make1(t, d, "/b/g", "new", true, true)
	must(t, d.Rename("/b/g", "/a/f"))
	states := map[string]bool{}
	for seed := range uint64(200) {
		c := d.Crash(Random, seed)
		f, err := c.ReadFile("/a/f")
		must(t, err)
		_, err = c.ReadFile("/b/g")
		states[string(f)+map[bool]string{true: " and the old name", false: ""}[err == nil]] = true
	}
	if !states["old and the old name"] || !states["new"] || !states["new and the old name"] || len(states) != 3 {
		t.Errorf("states: %v", states)
	}
	// The folder it left is synced: then it has arrived, too.
	must(t, d.SyncDir("/b"))
	if got := outcomes(d, "/a/f"); len(got) != 1 || !got["new"] {
		t.Errorf("after sync of the folder it left: %v", got)
	}
}

func TestChangesOfOneNameAreInOrder(t *testing.T) {
	d := New("/a")
	make1(t, d, "/a/f", "one", true, false)
	must(t, d.Remove("/a/f"))
	make1(t, d, "/a/f", "two", true, false)
	if got := outcomes(d, "/a/f"); len(got) != 3 || !got["-"] || !got["one"] || !got["two"] {
		t.Errorf("%v", got)
	}
	must(t, d.SyncDir("/a"))
	if got := outcomes(d, "/a/f"); len(got) != 1 || !got["two"] {
		t.Errorf("synced: %v", got)
	}
}

func TestAFailedSyncLosesForGood(t *testing.T) {
	d := New("/a")
	x := &Faulty{Disk: d, At: 3, Kind: SyncError}
	f, err := x.Create("/a/f")
	must(t, err)
	_, err = f.Write([]byte("abc"))
	must(t, err)
	if err := f.Sync(); err == nil {
		t.Fatal("no error")
	}
	must(t, f.Sync()) // the kernel has forgotten
	must(t, x.SyncDir("/a"))
	if b, err := d.ReadFile("/a/f"); err != nil || string(b) != "abc" {
		t.Errorf("before the crash: %q, %v", b, err)
	}
	if got := outcomes(d, "/a/f"); len(got) != 1 || !got[""] {
		t.Errorf("after it: %v", got)
	}
}

func TestTheSameSeedIsTheSameCrash(t *testing.T) {
	d := New("/a")
	for _, name := range []string{"x", "y", "z", "u", "v"} {
		make1(t, d, "/a/"+name, strings.Repeat(name, 3000), false, false)
	}
	list := func(c *Disk) (out string) {
		for f := range c.Files("/") {
			sum := f.Sum()
			out += f.Path + string(sum[:])
		}
		return out
	}
	different := map[string]bool{}
	for seed := range uint64(20) {
		one := list(d.Crash(Random, seed))
		if list(d.Crash(Random, seed)) != one {
			t.Fatalf("seed %d: two different crashes", seed)
		}
		different[one] = true
	}
	if len(different) < 10 {
		t.Errorf("20 seeds gave %d different crashes", len(different))
	}
}

func TestErrorsAreThoseOfAFileSystem(t *testing.T) {
	d := New("/a")
	make1(t, d, "/a/f", "x", false, false)
	_, err := d.Create("/a/f")
	for what, got := range map[string]struct{ err, want error }{
		"create a taken name": {err, fs.ErrExist},
		"mkdir a taken name":  {d.Mkdir("/a/f"), fs.ErrExist},
		"publish over a name": {d.Publish("/a/f", "/a/f"), fs.ErrExist},
		"remove what is not":  {d.Remove("/a/g"), fs.ErrNotExist},
		"mkdir in no folder":  {d.Mkdir("/b/c"), fs.ErrNotExist},
		"sync no folder":      {d.SyncDir("/b"), fs.ErrNotExist},
	} {
		if !errors.Is(got.err, got.want) {
			t.Errorf("%s: %v, want %v", what, got.err, got.want)
		}
	}
	must(t, d.Save("/a", filepath.Join(t.TempDir(), "out")))
}

func TestSaveAndReplay(t *testing.T) {
	d := New("/a")
	must(t, d.Mkdir("/a/b"))
	make1(t, d, "/a/b/f", "abc", true, true)
	make1(t, d, "/a/g", "gone", true, true)
	must(t, d.Remove("/a/g"))
	again := New("/a")
	for _, e := range d.Log() {
		must(t, again.Apply(e))
	}
	to := t.TempDir()
	must(t, again.Save("/a", to))
	b, err := os.ReadFile(filepath.Join(to, "b", "f"))
	if err != nil || string(b) != "abc" {
		t.Errorf("saved: %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(to, "g")); err == nil {
		t.Error("what was removed was saved")
	}
}
