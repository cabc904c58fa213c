package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// start runs a server that listens on a Unix socket, of which %s in its arguments becomes
// the path, and returns a dialler. The server ends with the test.
func start(t testing.TB, name string, args ...string) func(context.Context) (net.Conn, error) {
	t.Helper()
	dial, _ := startProcess(t, name, args...)
	return dial
}

func startProcess(t testing.TB, name string, args ...string) (func(context.Context) (net.Conn, error), *os.Process) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s", name)
	}
	folder, err := os.MkdirTemp("", "nbd") // t.TempDir is too long a path for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(folder, "s")
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "%s", socket)
	}
	said := new(bytes.Buffer)
	cmd := exec.Command(path, args...)
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(over)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-over
		_ = os.RemoveAll(folder)
	})
	return func(ctx context.Context) (net.Conn, error) {
		for {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err == nil {
				return conn, nil
			}
			select {
			case <-over:
				return nil, fmt.Errorf("%s has ended: %s", name, said)
			case <-ctx.Done():
				return nil, err
			case <-time.After(10 * time.Millisecond):
			}
		}
	}, cmd.Process
}

func dialTest(t testing.TB, dial func(context.Context) (net.Conn, error), o Options) *Client {
	t.Helper()
	c, err := Dial(t.Context(), dial, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

const qcow2Size = 64<<20 + 3<<16

// dirty is what has been written after the bitmap began.
var dirty = []Status{{5 << 20, 256 << 10, Dirty}, {33<<20 + 64<<10, 128 << 10, Dirty}, {64<<20 + 2<<16, 64 << 10, Dirty}}

// qcow2 makes an image with data, zeros that were written, holes and a bitmap, and returns
// its path and that of what qemu-img makes of it.
func qcow2(t *testing.T) (path, plain string) {
	t.Helper()
	folder := t.TempDir()
	path, plain = filepath.Join(folder, "disk.qcow2"), filepath.Join(folder, "disk.raw")
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", path, fmt.Sprint(qcow2Size))
	vdisktest.Tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x11 0 1M", "-c", "write -P 0x22 4M 3M", "-c", "write -z 5M 512k",
		"-c", "write -P 0x33 31M 4M", "-c", "write -z -u 60M 1M", "-c", "write -P 0x44 67000000 1000", path)
	vdisktest.Tool(t, "qemu-img", "bitmap", "--add", path, "since")
	args := []string{"-f", "qcow2"}
	for i, d := range dirty {
		args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", 0x80+i, d.Offset, d.Length))
	}
	vdisktest.Tool(t, "qemu-io", append(args, path)...)
	vdisktest.Tool(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, plain)
	return path, plain
}

// What qemu-nbd serves is, byte for byte, what qemu-img makes of the image, as many read
// at once; and its map and bitmap are those that qemu-img and the writes say.
func TestQEMU(t *testing.T) {
	path, plain := qcow2(t)
	dial := start(t, "qemu-nbd", "-k", "%s", "-r", "-f", "qcow2", "-B", "since", "-x", "disk", "-e", "4", "-t", path)
	c := dialTest(t, dial, Options{Export: "disk", Contexts: []string{Allocation, DirtyBitmap("since")}})
	if b := c.BlockSize(); c.Flags()&(HasFlags|ReadOnly) != HasFlags|ReadOnly || b.Min < 1 || b.Max != maxRequest {
		t.Errorf("flags %b, %+v", c.Flags(), b)
	}
	vdisktest.Run(t, Image{c}, vdisktest.File(t, plain))

	t.Run("map", func(t *testing.T) {
		var want []vdisk.Extent
		var says []struct {
			Start, Length int64
			Zero          bool
		}
		if err := json.Unmarshal(vdisktest.Tool(t, "qemu-img", "map", "--output=json", path), &says); err != nil {
			t.Fatal(err)
		}
		for _, s := range says {
			e := vdisk.Extent{Offset: s.Start, Length: s.Length}
			if s.Zero {
				e.Kind = vdisk.Zero
			}
			if last := len(want) - 1; last >= 0 && want[last].Kind == e.Kind {
				want[last].Length += e.Length
			} else {
				want = append(want, e)
			}
		}
		got, err := vdisktest.Collect(Image{c}.Extents(t.Context(), 0, c.Size()))
		if err != nil || !reflect.DeepEqual(got, want) || len(got) < 8 {
			t.Errorf("%v, %v; qemu-img: %v", got, err, want)
		}
	})
	t.Run("bitmap", func(t *testing.T) {
		got, err := statusOf(c, DirtyBitmap("since"), 0, c.Size())
		var set []Status
		for _, s := range got {
			if s.Flags != 0 {
				set = append(set, s)
			}
		}
		if err != nil || !reflect.DeepEqual(set, dirty) {
			t.Errorf("%v, %v; want %v", got, err, dirty)
		}
	})
	t.Run("errors", func(t *testing.T) {
		var missing *MissingContextError
		_, err := Dial(t.Context(), dial, Options{Export: "disk", Contexts: []string{Allocation, DirtyBitmap("other")}})
		if !errors.As(err, &missing) || !reflect.DeepEqual(missing.Contexts, []string{DirtyBitmap("other")}) {
			t.Error(err)
		}
		var refused *RefusedError
		if _, err = Dial(t.Context(), dial, Options{Export: "nothing"}); !errors.As(err, &refused) || refused.Reply != wire.RefusedUnknown {
			t.Error(err)
		}
		if _, err := c.WriteAt([]byte("x"), 0); !errors.Is(err, EPERM) {
			t.Error(err)
		}
	})
}

// What is written through qemu-nbd is in the image.
func TestQEMUWrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "48M")
	c := dialTest(t, start(t, "qemu-nbd", "-k", "%s", "-f", "qcow2", "--discard=unmap", path), Options{Contexts: []string{Allocation}})
	want := vdisktest.NewSparse(48 << 20)
	pattern := make([]byte, 1<<20+13)
	for i := range pattern {
		pattern[i] = byte(i*i>>8 + 1)
	}
	p := bytes.Repeat(pattern, 33)[:33<<20]
	var all sync.WaitGroup
	for at := int64(0); at < int64(len(p)); at += 11 << 20 {
		all.Go(func() {
			if n, err := c.Write(p[at:at+11<<20], 1000+at, FUA); err != nil || n != 11<<20 {
				t.Error(n, err)
			}
		})
	}
	all.Wait()
	if n, err := c.WriteAt(p, 15<<20); err != nil || n != len(p) { // in two requests
		t.Error(n, err)
	}
	for _, at := range []int64{1000, 15 << 20} {
		if _, err := want.WriteAt(p, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.WriteZeroes(3<<20+5, 4<<20, 0), c.Trim(40<<20, 1<<20), c.Flush()); err != nil {
		t.Error(err)
	}
	for _, z := range [][2]int64{{3<<20 + 5, 4 << 20}, {40 << 20, 1 << 20}} { // qcow2: what is trimmed reads as zeros
		if _, err := want.WriteAt(make([]byte, z[1]), z[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := vdisktest.Equal(c, want, 0, c.Size()); err != nil {
		t.Error(err)
	}
}

// What goes wrong at nbdkit is told to whom it concerns.
func TestNBDKit(t *testing.T) {
	t.Parallel()
	t.Run("errors", func(t *testing.T) {
		t.Parallel()
		c := dialTest(t, start(t, "nbdkit", "-f", "-U", "%s", "--filter=error", "pattern", "1G", "error-pread=ENOSPC", "error-pread-rate=100%"), Options{Contexts: []string{Allocation}})
		for range 3 {
			if n, err := c.ReadAt(make([]byte, 100), 5); n != 0 || !errors.Is(err, ENOSPC) {
				t.Error(n, err)
			}
		}
	})
	t.Run("delays", func(t *testing.T) {
		t.Parallel()
		dial := start(t, "nbdkit", "-f", "-U", "%s", "--filter=delay", "pattern", "1G", "rdelay=300ms")
		c := dialTest(t, dial, Options{})
		c.o.Timeout = 50 * time.Millisecond
		if _, err := c.ReadAt(make([]byte, 100), 0); !errors.Is(err, ErrConnection) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		patient := dialTest(t, dial, Options{})
		var all sync.WaitGroup
		for i := range int64(8) {
			all.Go(func() {
				p := make([]byte, 16)
				if _, err := patient.ReadAt(p, i*800); err != nil || !bytes.Equal(p, joined(uint64(i*800), uint64(i*800+8))) {
					t.Error(p, err)
				}
			})
		}
		all.Wait()
	})
	t.Run("blocks", func(t *testing.T) {
		t.Parallel()
		c := dialTest(t, start(t, "nbdkit", "-f", "-U", "%s", "--filter=blocksize-policy", "pattern", "16M",
			"blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=1M", "blocksize-error-policy=error"), Options{Contexts: []string{Allocation}})
		if c.BlockSize() != (BlockSize{4096, 65536, 1 << 20}) {
			t.Error(c.BlockSize())
		}
		want := make([]byte, 16<<20)
		for i := 0; i < len(want); i += 8 {
			binary.BigEndian.PutUint64(want[i:], uint64(i))
		}
		if err := vdisktest.Equal(c, bytes.NewReader(want), 0, 16<<20); err != nil {
			t.Error(err)
		}
		for n := 1; n < 6<<20; n = n*3 + 1 { // in blocks that begin and end inside of the server's, in several requests
			p := make([]byte, n)
			if _, err := c.ReadAt(p, int64(n)); err != nil || !bytes.Equal(p, want[n:2*n]) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		if e, err := vdisktest.Collect(Image{c}.Extents(t.Context(), 4097, 9001)); err != nil || vdisktest.Cover(e, 4097, 9001) != nil {
			t.Error(e, err)
		}
	})
	t.Run("sparse", func(t *testing.T) {
		t.Parallel()
		c := dialTest(t, start(t, "nbdkit", "-f", "-U", "%s", "memory", "1T"), Options{Contexts: []string{Allocation}})
		at := int64(900<<30 - 3)
		if n, err := c.Write([]byte("far away"), at, FUA); n != 8 || err != nil {
			t.Error(n, err)
		}
		got, err := vdisktest.Collect(Image{c}.Extents(t.Context(), 0, c.Size()))
		if err != nil || len(got) != 3 || got[1].Kind != vdisk.Data || got[1].Offset > at || got[1].End() < at+8 || got[1].Length > 1<<20 {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// nbdkit is spoken with in the clear only where it wants that.
func TestNBDKitTLS(t *testing.T) {
	t.Parallel()
	mine, pool := certificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(mine.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for name, b := range map[string]*pem.Block{"ca-cert.pem": {Type: "CERTIFICATE", Bytes: mine.Certificate[0]},
		"server-cert.pem": {Type: "CERTIFICATE", Bytes: mine.Certificate[0]}, "server-key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dial := start(t, "nbdkit", "-f", "-U", "%s", "--tls=require", "--tls-certificates="+folder, "memory", "64M")
	var refused *RefusedError
	if _, err := Dial(t.Context(), dial, Options{}); !errors.As(err, &refused) || refused.Reply != wire.RefusedTLS {
		t.Errorf("in the clear: %v", err)
	}
	c := dialTest(t, dial, Options{TLS: &tls.Config{RootCAs: pool, ServerName: "localhost"}})
	in, out := bytes.Repeat([]byte("sealed, "), 4<<20/8), make([]byte, 4<<20)
	if _, err := c.WriteAt(in, 7); err != nil {
		t.Error(err)
	}
	if _, err := c.ReadAt(out, 7); err != nil || !bytes.Equal(in, out) {
		t.Error(err)
	}
}
