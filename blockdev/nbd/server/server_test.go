package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd"
	"github.com/millrace-backup/millrace/vdisk"
)

// memory is a disk in memory that can fail and wait.
type memory struct {
	mu      sync.RWMutex
	b       []byte
	flushes int
	fail    error
	wait    chan struct{} // reads wait for it
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.wait != nil {
		<-m.wait
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.fail != nil {
		return 0, m.fail
	}
	return copy(p, m.b[off:]), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flushes++
	return m.fail
}

func (m *memory) WriteZeroes(off, length int64) error {
	_, err := m.WriteAt(make([]byte, length), off)
	return err
}

func (m *memory) Trim(off, length int64) error { return m.WriteZeroes(off, length) }

func (m *memory) Extents(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		for at := from; at < to; {
			end := min(to, at/4096*4096+4096)
			m.mu.RLock()
			kind := vdisk.Data
			if len(bytes.Trim(m.b[at:end], "\x00")) == 0 {
				kind = vdisk.Zero
			}
			m.mu.RUnlock()
			if !yield(vdisk.Extent{Offset: at, Length: end - at, Kind: kind}, nil) {
				return
			}
			at = end
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve serves exports on a socket in a folder with a short name.
func serve(t testing.TB, o Options) (path string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "nbd")
	must(t, err)
	path = filepath.Join(folder, "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	s, err := New(o)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(ctx, l) })
	t.Cleanup(func() { cancel(); done.Wait(); _ = os.RemoveAll(folder) })
	return path
}

func dial(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

const diskSize = 8<<20 + 4096

// Several connections, many goroutines of each, against a model; what one has written all see.
func TestAgainstModel(t *testing.T) {
	m := &memory{b: make([]byte, diskSize)}
	path := serve(t, Options{Exports: []Export{{Name: "a", Size: diskSize, Disk: m}}})
	const workers = 8
	part := int64(diskSize / workers / 4096 * 4096)
	var all sync.WaitGroup
	for w := range int64(workers) {
		c, err := nbd.Dial(t.Context(), dial(path), nbd.Options{Export: "a", Contexts: []string{nbd.Allocation}})
		must(t, err)
		defer c.Close()
		for half := range int64(2) {
			all.Go(func() {
				r, mine := rand.New(rand.NewPCG(uint64(w), uint64(half))), make([]byte, part/2)
				base := w*part + half*part/2
				for range 300 {
					off := r.Int64N(part / 2)
					n := 1 + r.Int64N(min(part/2-off, 100<<10))
					var err error
					switch r.IntN(6) {
					case 0:
						err = c.WriteZeroes(base+off, n, 0)
						clear(mine[off : off+n])
					case 1:
						err = c.Trim(base+off, n)
						clear(mine[off : off+n])
					case 2:
						err = c.Flush()
					case 3:
						got := make([]byte, n)
						if _, err = c.ReadAt(got, base+off); err == nil && !bytes.Equal(got, mine[off:off+n]) {
							err = errors.New("other bytes")
						}
					default:
						for i := range n {
							mine[off+i] = byte(r.Uint32())
						}
						_, err = c.Write(mine[off:off+n], base+off, nbd.WriteFlags(r.IntN(2)))
					}
					if err != nil {
						t.Errorf("worker %d.%d: %v", w, half, err)
						return
					}
				}
			})
		}
	}
	all.Wait()
	c, err := nbd.Dial(t.Context(), dial(path), nbd.Options{Export: "a", Contexts: []string{nbd.Allocation}})
	must(t, err)
	defer c.Close()
	at := int64(0)
	for s, err := range c.BlockStatus(t.Context(), nbd.Allocation, 0, diskSize) {
		must(t, err)
		if s.Offset != at || s.Flags&nbd.Zero != 0 && len(bytes.Trim(m.b[at:at+s.Length], "\x00")) > 0 {
			t.Fatalf("status %+v at %d", s, at)
		}
		at += s.Length
	}
	if at != diskSize || m.flushes == 0 {
		t.Errorf("status to %d, %d flushes", at, m.flushes)
	}
}

// What a disk refuses its client is told, in the protocol's words.
func TestErrors(t *testing.T) {
	m := &memory{b: make([]byte, diskSize)}
	path := serve(t, Options{Exports: []Export{{Name: "a", Size: diskSize, Block: 512, Disk: m}, {Name: "r", Size: diskSize, ReadOnly: true, Disk: m}}})
	c, err := nbd.Dial(t.Context(), dial(path), nbd.Options{Export: "a"})
	must(t, err)
	defer c.Close()
	for _, e := range []struct{ is, want error }{{errors.New("odd"), nbd.EIO}, {nbd.ENOSPC, nbd.ENOSPC}, {io.ErrClosedPipe, nbd.EIO}, {os.ErrClosed, nbd.ESHUTDOWN}} {
		m.mu.Lock()
		m.fail = fmt.Errorf("x: %w", e.is)
		m.mu.Unlock()
		_, err := c.ReadAt(make([]byte, 4096), 0)
		_, werr := c.WriteAt(make([]byte, 4096), 0)
		if ferr := c.Flush(); !errors.Is(err, e.want) || !errors.Is(werr, e.want) || !errors.Is(ferr, e.want) {
			t.Errorf("%v: %v, %v, %v", e.is, err, werr, ferr)
		}
	}
	m.mu.Lock()
	m.fail = nil
	m.mu.Unlock()
	ro, err := nbd.Dial(t.Context(), dial(path), nbd.Options{Export: "r"})
	must(t, err)
	defer ro.Close()
	if ro.Flags()&nbd.ReadOnly == 0 {
		t.Error("not read-only")
	}
	if _, err := nbd.Dial(t.Context(), dial(path), nbd.Options{Export: "other"}); err == nil {
		t.Error("an export that is not there")
	}
}

// A client whose reads hang does not keep others from reading, or the server from ending.
func TestHangs(t *testing.T) {
	m := &memory{b: make([]byte, diskSize), wait: make(chan struct{})}
	path := serve(t, Options{Exports: []Export{{Name: "slow", Size: diskSize, Disk: m}, {Name: "a", Size: diskSize, Disk: &memory{b: make([]byte, diskSize)}}}})
	slow, err := nbd.Dial(t.Context(), dial(path), nbd.Options{Export: "slow"})
	must(t, err)
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() { _, _ = slow.ReadAt(make([]byte, 1<<20), 0) })
	}
	time.Sleep(20 * time.Millisecond)
	c, err := nbd.Dial(t.Context(), dial(path), nbd.Options{Export: "a"})
	must(t, err)
	_, err = c.ReadAt(make([]byte, 1<<20), 0)
	must(t, err)
	must(t, c.Close())
	must(t, slow.Close())
	close(m.wait)
	all.Wait()
}

// Programs that we did not write.
func TestOthersPrograms(t *testing.T) {
	folder := t.TempDir()
	image := filepath.Join(folder, "image")
	content := make([]byte, diskSize)
	for i := range content[1<<20 : 5<<20] {
		content[1<<20+i] = byte(rand.Uint32())
	}
	must(t, os.WriteFile(image, content, 0o600))
	m := &memory{b: make([]byte, diskSize)}
	path := serve(t, Options{Exports: []Export{{Name: "a", Description: "a disk", Size: diskSize, Block: 512, Disk: m}}})
	uri := "nbd+unix:///a?socket=" + path
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"qemu-img", "convert", "-n", "-O", "raw", image, uri}, ""},
		{[]string{"qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri}, "identical"},
		{[]string{"qemu-img", "map", "--output=json", uri}, `"zero": true`},
		{[]string{"qemu-io", "-f", "raw", "-c", "write -P 7 8192 65536", "-c", "read -P 7 8192 65536", "-c", "write -z 8192 4096", "-c", "read -P 0 8192 4096",
			"-c", "discard 12288 4096", "-c", "write -f -P 9 512 512", "-c", "read -P 9 512 512", "-c", "flush", uri}, "wrote 512/512"},
		{[]string{"nbdinfo", "--json", uri}, `"can_multi_conn": true`},
		{[]string{"nbdinfo", "--list", "nbd+unix:///?socket=" + path}, "a disk"},
		{[]string{"nbdinfo", "--map", uri}, "hole,zero"},
		{[]string{"nbdcopy", "--connections=4", uri, filepath.Join(folder, "copy")}, ""},
		{[]string{"nbdcopy", "--flush", image, uri}, ""},
		{[]string{"qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri}, "identical"},
	} {
		t.Run(c.args[0]+" "+c.args[1], func(t *testing.T) {
			if _, err := exec.LookPath(c.args[0]); err != nil {
				t.Skipf("%s is missing: install qemu-utils and libnbd-bin", c.args[0])
			}
			cmd := exec.CommandContext(t.Context(), c.args[0], c.args[1:]...)
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte(c.want)) || bytes.Contains(out, []byte("failed")) {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}

// Whatever a client sends, the server goes on.
func FuzzServer(f *testing.F) {
	ask := func(kind, flags uint16, off uint64, n uint32) []byte {
		b := []byte{0x25, 0x60, 0x95, 0x13, byte(flags >> 8), byte(flags), byte(kind >> 8), byte(kind), 0, 0, 0, 0, 0, 0, 0, 1}
		for i := 56; i >= 0; i -= 8 {
			b = append(b, byte(off>>i))
		}
		return append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	option := func(n byte, data ...byte) []byte {
		return append([]byte("IHAVEOPT\x00\x00\x00"+string(n)+"\x00\x00\x00"+string(byte(len(data)))), data...)
	}
	name := []byte{0, 0, 0, 1, 'a'}
	begin := bytes.Join([][]byte{{0, 0, 0, 3}, option(8), option(9, append(name, 0, 0, 0, 0)...), option(10, append(name, "\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation"...)...),
		option(6, append(name, 0, 1, 0, 3)...), option(3), option(7, append(name, 0, 0)...)}, nil)
	f.Add(bytes.Join([][]byte{begin, ask(0, 0, 4096, 4096), ask(7, 8, 0, 8192), ask(6, 1, 512, 512), ask(4, 0, 0, 512), append(ask(1, 1, 0, 4), "abcd"...), ask(3, 0, 0, 0), ask(2, 0, 0, 0)}, nil))
	f.Add(bytes.Join([][]byte{{0, 0, 0, 1}, option(1, 'a'), ask(0, 0, 1<<63, 1<<31), ask(9, 9, 0, 0)}, nil))
	m := &memory{b: make([]byte, 64<<10)}
	s, err := New(Options{Exports: []Export{{Name: "a", Size: 64 << 10, Disk: m}}})
	must(f, err)
	f.Fuzz(func(t *testing.T, sent []byte) {
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() { s.talk(context.Background(), there); close(done) }()
		go func() { _, _ = here.Write(sent); time.Sleep(time.Millisecond); _ = here.Close() }()
		_, _ = io.Copy(io.Discard, here)
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("the server does not let go")
		}
	})
}
