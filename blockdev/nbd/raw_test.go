package nbd

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// A file that ends inside a sector is served to its last sector, of which qemu-nbd makes a
// whole one; all of it is read, by many at once, and up to the end and not beyond.
func TestOddSize(t *testing.T) {
	const size, whole = 34<<20 + 777, 34<<20 + 1024
	path := filepath.Join(t.TempDir(), "odd.raw")
	b := make([]byte, whole)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(b[:size])
	clear(b[1<<20 : 3<<20])
	if err := os.WriteFile(path, b[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	c := dialTest(t, start(t, "qemu-nbd", "-k", "%s", "-r", "-f", "raw", "-e", "4", "-t", path), Options{Contexts: []string{Allocation}})
	if c.Size() != whole && c.Size() != size { // older ones leave the part out of the map
		t.Fatalf("size %d", c.Size())
	}
	want := b[:c.Size()]
	var all sync.WaitGroup
	for i := range uint64(32) {
		all.Go(func() {
			rnd, p := rand.New(rand.NewPCG(i, 1)), make([]byte, 100<<10)
			for range 10 {
				off := rnd.IntN(len(want))
				p := p[:1+rnd.IntN(len(p)-1)]
				n, err := c.ReadAt(p, int64(off))
				short := off+len(p) > len(want)
				if short != (err == io.EOF) || !short && err != nil || !bytes.Equal(p[:n], want[off:min(off+len(p), len(want))]) {
					t.Errorf("%d of %d bytes at %d: %v", n, len(p), off, err)
				}
			}
		})
	}
	all.Wait()
	p := make([]byte, len(want)+5)
	if n, err := c.ReadAt(p[1:], 0); n != len(want) || err != io.EOF || !bytes.Equal(p[1:1+n], want) { // more than a request
		t.Errorf("all of it: %d, %v", n, err)
	}
	for _, off := range []int64{c.Size(), c.Size() + 1, 1 << 62} {
		if n, err := c.ReadAt(p[:1], off); n != 0 || err != io.EOF {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
	}
	got, err := vdisktest.Collect(Image{c}.Extents(t.Context(), 0, c.Size()))
	if err != nil || vdisktest.Cover(got, 0, c.Size()) != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, e := range got {
		if e.Kind == vdisk.Zero && bytes.Count(want[e.Offset:e.End()], []byte{0}) != int(e.Length) {
			t.Errorf("%+v is not zeros", e)
		}
	}
	t.Run("split reads do not allocate", func(t *testing.T) {
		if n := testing.AllocsPerRun(3, func() { _, _ = c.ReadAt(p[:len(want)], 0) }); n > 0 {
			t.Errorf("%v times", n)
		}
	})
}

// A reply that is not as it must be fails everybody with the same reason, also those whose
// answers would have been fine.
func TestBadReplyFailsAll(t *testing.T) {
	const readers = 5
	c := dialFake(t, HasFlags, 1, func(f fake) {
		var all []asked
		for range readers {
			all = append(all, f.request())
		}
		f.send(chunkOf(all[3].cookie, wire.ChunkData, wire.ChunkDone, all[3].off+1, "xx"))
		for _, a := range all {
			_, _ = f.Write(chunkOf(a.cookie, wire.ChunkData, wire.ChunkDone, a.off, "xx"))
		}
	})
	var all sync.WaitGroup
	whys := make([]error, readers)
	for i := range readers {
		all.Go(func() {
			p := []byte("ab")
			n, err := c.ReadAt(p, int64(i))
			if n != 0 || !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrConnection) {
				t.Errorf("%d, %v", n, err)
			}
			for errors.Unwrap(err) != nil { // what is said of the single read is not the same
				err = errors.Unwrap(err)
			}
			whys[i] = err
		})
	}
	all.Wait()
	for _, why := range whys {
		if !reflect.DeepEqual(why, whys[0]) {
			t.Errorf("%v, and %v", why, whys[0])
		}
	}
}
