package pace

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vdisk/filelock"
)

// TestMain is a process that shares a pace, where the environment names one.
func TestMain(m *testing.M) {
	path := os.Getenv("MILLRACE_TEST_PACE")
	if path == "" {
		os.Exit(m.Run())
	}
	bytes, _ := strconv.ParseInt(os.Getenv("MILLRACE_TEST_BYTES"), 10, 64)
	p, err := Open(path, 0)
	for ; err == nil && bytes > 0; bytes -= gather {
		if err = p.Wait(context.Background(), gather); err == nil {
			fmt.Println("passed") // unbuffered
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestProcesses: three of them keep to one rate, and one that is killed in the midst of
// it takes nothing with it.
func TestProcesses(t *testing.T) {
	t.Parallel()
	const rate, each = 16 * mib, 3 * mib
	path := filepath.Join(t.TempDir(), "pace")
	p, err := Open(path, rate)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	start := func(bytes int64) (*exec.Cmd, io.Reader) {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "MILLRACE_TEST_PACE="+path, fmt.Sprintf("MILLRACE_TEST_BYTES=%d", bytes))
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		return c, out
	}
	begun := time.Now()
	endless, said := start(1 << 50)
	var total int64
	var mu sync.Mutex
	count := func(r io.Reader, half func()) {
		for n, s := 0, bufio.NewScanner(r); s.Scan(); n++ {
			mu.Lock()
			total += gather
			mu.Unlock()
			if n == each/gather/2 {
				half()
			}
		}
	}
	var readers sync.WaitGroup
	readers.Go(func() { count(said, func() {}) })
	kill := sync.OnceFunc(func() { _ = endless.Process.Kill() })
	var both []*exec.Cmd
	for range 2 {
		c, out := start(each)
		both = append(both, c)
		readers.Go(func() { count(out, kill) })
	}
	readers.Wait()
	for _, c := range both {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	if err := endless.Wait(); err == nil {
		t.Error("what was to be killed has ended")
	}
	took := time.Since(begun)
	if total < 2*each {
		t.Errorf("%d bytes passed", total)
	}
	if at := least(total-3*gather, rate); took < at {
		t.Errorf("%d bytes at %d in %v, must be %v", total, rate, took, at)
	}
	if s, ok := p.read(); !ok || s.rate != rate {
		t.Errorf("the file: %+v, sound %v", s, ok)
	}
}

// TestLockOfOneWhoStandsStill: he keeps others for a moment, and not for good.
func TestLockOfOneWhoStandsStill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pace")
	p, err := Open(path, 10*mib)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	other, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if ok, err := filelock.Try(other, lockAt); !ok || err != nil {
		t.Fatal(ok, err)
	}
	wait(t, p, mib) // or the test never ends
	if s, _ := p.read(); s.due == 0 {
		t.Error("it passed without account")
	}
}
