package crashfile_test

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

func write(t *testing.T, f *crashfile.File, b []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(b, off); n < len(b) || err != nil {
		t.Fatal(n, err)
	}
}

// Synced bytes survive; unsynced ones are old, new, or torn by sectors.
func TestCrash(t *testing.T) {
	f, hooks := crashfile.New(), 0
	f.Hook = func() { hooks++ }
	old, fresh := bytes.Repeat([]byte{1}, 10_000), bytes.Repeat([]byte{2}, 6000)
	write(t, f, old, 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, f, fresh, 3000)
	if err := f.Truncate(20_000); err != nil {
		t.Fatal(err)
	}
	if hooks != 4 || f.Effects() != 4 {
		t.Errorf("%d hooks, %d effects", hooks, f.Effects())
	}
	now := f.Bytes()
	if c := f.Crash(crashfile.Lost, 1); !bytes.Equal(c.Bytes(), old) {
		t.Error("lost: something of what was not synced is there")
	}
	if c := f.Crash(crashfile.Kept, 1); !bytes.Equal(c.Bytes(), now) {
		t.Error("kept: something is not there")
	}
	seen := map[string]bool{}
	for seed := range uint64(200) {
		c := f.Crash(crashfile.Random, seed)
		b := c.Bytes()
		if len(b) != 10_000 && len(b) != 20_000 {
			t.Fatalf("seed %d: %d bytes", seed, len(b))
		}
		fresh := 0
		for i, x := range b {
			switch {
			case x == 2 && i >= 3000 && i < 9000:
				fresh++
			case i < 10_000 && x != 1 || i >= 10_000 && x != 0:
				t.Fatalf("seed %d: byte %d is %d", seed, i, x)
			}
		}
		switch fresh {
		case 0:
			seen["lost"] = true
		case 6000:
			seen["kept"] = true
		default:
			seen["torn"] = true
		}
	}
	if len(seen) != 3 {
		t.Errorf("seen only %v", seen)
	}
	if !bytes.Equal(f.Bytes(), now) {
		t.Error("a crash changed the file itself")
	}
}

func TestLie(t *testing.T) {
	f := crashfile.New()
	f.Lie = func(n int) bool { return n == 1 }
	write(t, f, []byte("x"), 0)
	_ = f.Sync()
	if c := f.Crash(crashfile.Lost, 0); c.Size() != 0 {
		t.Error("a sync that was to do nothing did something")
	}
	_ = f.Sync()
	if c := f.Crash(crashfile.Lost, 0); c.Size() != 1 {
		t.Error("a sync did nothing")
	}
}

func TestImage(t *testing.T) {
	f, want := crashfile.New(), vdisktest.NewSparse(5<<20+100)
	if err := f.Truncate(5<<20 + 100); err != nil {
		t.Fatal(err)
	}
	for i, off := range []int64{0, 5000, 1 << 20, 5 << 20} {
		b := bytes.Repeat([]byte{byte(i + 1)}, 100)
		write(t, f, b, off)
		_, _ = want.WriteAt(b, off)
	}
	vdisktest.Run(t, f, want)
}

// What a killed process leaves is all there, and no more durable than it was.
func TestKilled(t *testing.T) {
	f := crashfile.New()
	write(t, f, []byte("old"), 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, f, []byte("new"), 0)
	k := f.Crash(crashfile.Killed, 1)
	if now, cut := string(k.Bytes()), string(k.Crash(crashfile.Lost, 1).Bytes()); now != "new" || cut != "old" {
		t.Errorf("killed: %q, and after a cut %q", now, cut)
	}
	if err := k.Sync(); err != nil {
		t.Fatal(err)
	}
	if cut := string(k.Crash(crashfile.Lost, 1).Bytes()); cut != "new" {
		t.Errorf("killed, synced and cut: %q", cut)
	}
}

// While the hook of one file runs nothing happens to those that lie with it.
func TestTogether(t *testing.T) {
	a, b := crashfile.New(), crashfile.New()
	crashfile.Together(a, b)
	var in atomic.Int32
	hook := func() {
		if in.Add(1) > 1 {
			t.Error("two hooks at once")
		}
		runtime.Gosched()
		in.Add(-1)
	}
	a.Hook, b.Hook = hook, hook
	var all sync.WaitGroup
	for _, f := range []*crashfile.File{a, b} {
		all.Go(func() {
			for n := range int64(500) {
				write(t, f, []byte{1}, n)
			}
		})
	}
	all.Wait()
}
