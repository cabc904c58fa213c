package restore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// memory is a Target in memory that notices bytes written twice.
type memory struct {
	b       []byte
	written []atomic.Bool // by byte/512
	twice   atomic.Bool
}

func newMemory(size int64) *memory {
	return &memory{b: make([]byte, size), written: make([]atomic.Bool, size/512+1)}
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off%512 == 0 && m.written[off/512].Swap(true) {
		m.twice.Store(true)
	}
	return copy(m.b[off:], p), nil
}

func TestDiskComesBack(t *testing.T) {
	content := mixed()
	for _, codec := range []string{"auto", "minlz", "lz4", "s2", "zstd", "none"} {
		for _, workers := range []int{0, 1, 7} {
			f := newFixture(t, codec)
			d := f.backup("disk.raw", content)
			m := newMemory(d.Size)
			var last Progress
			err := Disk(t.Context(), f.v, d, m, Options{Workers: workers, Progress: func(p Progress) { last = p }})
			if err != nil {
				t.Fatalf("%s, %d workers: %v", codec, workers, err)
			}
			if !bytes.Equal(m.b, content) || m.twice.Load() {
				t.Errorf("%s, %d workers: other bytes, or bytes written twice", codec, workers)
			}
			if last.Done != d.Size || last.Size != d.Size || last.Written <= 0 || last.Read <= 0 {
				t.Errorf("%s: last progress %+v of %d bytes", codec, last, d.Size)
			}
		}
	}
}

func TestOddDisks(t *testing.T) {
	f := newFixture(t, "auto")
	for name, content := range map[string][]byte{
		"nothing": {}, "one byte": {1}, "one zero byte": {0}, "only holes": make([]byte, 30*mib), "one block": noise(1, 4096),
	} {
		d := f.backup(name, content)
		m := newMemory(d.Size)
		if err := Disk(t.Context(), f.v, d, m, Options{}); err != nil || !bytes.Equal(m.b, content) {
			t.Errorf("%s: %v", name, err)
		}
	}
	none := events.PointDisk{Key: "no layers", Size: 5 * mib}
	if err := Disk(t.Context(), f.v, none, newMemory(none.Size), Options{}); err != nil {
		t.Errorf("a disk without layers is zeros: %v", err)
	}
}

// A point of several layers, whose newest holds the changed blocks of a cell as
// one chunk: pieces point into chunks from both sides.
func TestLayersAndSplices(t *testing.T) {
	f := newFixture(t, "s2")
	content := mixed()
	d := f.backup("disk", content)
	splice := noise(77, 3*4096)
	refs := []ref{}
	for i, at := range []int64{40 * kib, 1*mib + 8*kib, 2*mib + 64*kib} {
		refs = append(refs, ref{offset: at, length: 4096, chunk: splice, inner: int64(i) * 4096})
		copy(content[at:], splice[i*4096:][:4096])
	}
	refs = append(refs, ref{offset: 9 * mib, length: mib, zero: true})
	clear(content[9*mib : 10*mib])
	extents, chunks := f.layer(d.Disk, refs)
	d.Extents = append([]events.TableRef{extents}, d.Extents...)
	d.Chunks = append([]events.TableRef{chunks}, d.Chunks...)
	m := newMemory(d.Size)
	if err := Disk(t.Context(), f.v, d, m, Options{}); err != nil || !bytes.Equal(m.b, content) {
		t.Fatalf("restore: %v, equal %t", err, bytes.Equal(m.b, content))
	}
	r, err := Verify(t.Context(), f.v, f.point(d), Options{ReadPercent: 100})
	if err != nil || r.ReadCount != r.Chunks || r.Chunks == 0 {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

// counting counts what is read from packs.
type counting struct {
	store.Store
	gets  atomic.Int64
	bytes atomic.Int64
}

func (c *counting) Get(ctx context.Context, name string, off int64, buf []byte) (int, error) {
	if strings.HasPrefix(name, "packs/") {
		c.gets.Add(1)
		c.bytes.Add(int64(len(buf)))
	}
	return c.Store.Get(ctx, name, off, buf)
}

func TestChunksAreReadOnceAndTogether(t *testing.T) {
	f := newFixture(t, "none")
	// One cell of single blocks out of one chunk, between pieces of others: without
	// care each block would be a read and a decode.
	splice := noise(1, 512*4096)
	base := noise(2, 4*mib)
	d := f.backup("disk", base)
	var refs []ref
	for i := range int64(512) {
		at := 2 * i * 4096
		refs = append(refs, ref{offset: at, length: 4096, chunk: splice, inner: i * 4096})
		copy(base[at:], splice[i*4096:][:4096])
	}
	extents, chunks := f.layer(d.Disk, refs)
	d.Extents = append([]events.TableRef{extents}, d.Extents...)
	d.Chunks = append([]events.TableRef{chunks}, d.Chunks...)
	c := &counting{Store: f.v.Store}
	f.v.Store = c
	m := newMemory(d.Size)
	if err := Disk(t.Context(), f.v, d, m, Options{Workers: 1}); err != nil || !bytes.Equal(m.b, base) {
		t.Fatalf("restore: %v", err)
	}
	if gets, n := c.gets.Load(), c.bytes.Load(); gets > 6 || n > 6*mib+100*kib {
		t.Errorf("%d reads of %d bytes for 6 MiB of chunks", gets, n)
	}
}

func TestRepeatedContentIsKept(t *testing.T) {
	f := newFixture(t, "none")
	file := noise(1, mib)
	content := make([]byte, 64*mib)
	for at := 0; at < len(content); at += 16 * mib { // in different batches
		copy(content[at:], file)
	}
	d := f.backup("disk", content)
	c := &counting{Store: f.v.Store}
	f.v.Store = c
	m := newMemory(d.Size)
	if err := Disk(t.Context(), f.v, d, m, Options{Workers: 1}); err != nil || !bytes.Equal(m.b, content) {
		t.Fatalf("restore: %v", err)
	}
	if n := c.bytes.Load(); n > 2*mib+100*kib {
		t.Errorf("%d bytes read for a file of 1 MiB that is there four times", n)
	}
}

func TestRawFile(t *testing.T) {
	f := newFixture(t, "auto")
	content := mixed()
	d := f.backup("disk", content)
	folder := t.TempDir()
	path := filepath.Join(folder, "out.raw")
	if err := Raw(t.Context(), f.v, d, path, RawOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("the file has other bytes (%v)", err)
	}
	info, err := os.Stat(path)
	must(t, err)
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	checkHoles(t, path, content)
	onlyFile(t, folder, "out.raw")

	err = Raw(t.Context(), f.v, d, path, RawOptions{})
	if !errors.Is(err, ErrExists) || !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("restore over a file: want ErrExists, got %v", err)
	}
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	if err := Raw(t.Context(), f.v, d, path, RawOptions{Force: true}); err != nil {
		t.Fatalf("with force: %v", err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, content) {
		t.Error("with force: other bytes")
	}
	onlyFile(t, folder, "out.raw")
}

func onlyFile(t *testing.T, folder string, want ...string) {
	t.Helper()
	all, err := os.ReadDir(folder)
	must(t, err)
	var got []string
	for _, e := range all {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

func TestRawLeavesNothingWhenItFails(t *testing.T) {
	f := newFixture(t, "auto")
	d := f.backup("disk", mixed())
	folder := t.TempDir()
	path := filepath.Join(folder, "out.raw")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Raw(cancelled, f.v, d, path, RawOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	onlyFile(t, folder)
	for _, pack := range f.objects("packs/") {
		must(t, os.Remove(pack))
	}
	must(t, os.WriteFile(path, []byte("precious"), 0o600))
	if err := Raw(t.Context(), f.v, d, path, RawOptions{Force: true}); !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("no packs: %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("a failed restore with force replaced the file: %q", got)
	}
	onlyFile(t, folder, "out.raw")
	if err := Raw(t.Context(), f.v, d, folder, RawOptions{Force: true}); !errors.Is(err, ErrNotFile) {
		t.Errorf("over a folder: %v", err)
	}
	if err := Raw(t.Context(), f.v, d, filepath.Join(folder, "no", "where"), RawOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a missing folder: %v", err)
	}
}

func TestAppearDoesNotReplaceWhatCameMeanwhile(t *testing.T) {
	folder := t.TempDir()
	temp, path := filepath.Join(folder, "temp"), filepath.Join(folder, "out")
	must(t, os.WriteFile(temp, []byte("new"), 0o600))
	must(t, os.WriteFile(path, []byte("came meanwhile"), 0o600))
	if err := appear(temp, path, false); !errors.Is(err, ErrExists) {
		t.Errorf("want ErrExists, got %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "came meanwhile" {
		t.Errorf("it was replaced by %q", got)
	}
}

func TestCancelHalfWay(t *testing.T) {
	f := newFixture(t, "auto")
	d := f.backup("disk", mixed())
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	err := Disk(ctx, f.v, d, newMemory(d.Size), Options{Workers: 2, Progress: func(Progress) { cancel(stop) }})
	if !errors.Is(err, stop) {
		t.Errorf("want the cause of the cancel, got %v", err)
	}
}

type failing struct{ err error }

func (f failing) WriteAt([]byte, int64) (int, error) { return 0, f.err }

func TestWriteErrorEndsTheRestore(t *testing.T) {
	f := newFixture(t, "auto")
	d := f.backup("disk", mixed())
	broken := errors.New("no space on the target")
	if err := Disk(t.Context(), f.v, d, failing{broken}, Options{}); !errors.Is(err, broken) || errors.Is(err, vault.ErrDamaged) {
		t.Errorf("want the target's error, got %v", err)
	}
}

func TestManyRestoresAtOnce(t *testing.T) {
	f := newFixture(t, "auto")
	content := mixed()
	d := f.backup("disk", content)
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			m := newMemory(d.Size)
			if err := Disk(t.Context(), f.v, d, m, Options{}); err != nil || !bytes.Equal(m.b, content) {
				t.Errorf("restore: %v", err)
			}
		})
	}
	g.Wait()
}

func TestHostilePiecesAreRefused(t *testing.T) {
	good := piece{offset: 0, length: 4096, place: place{at: 100, stored: 5000, raw: 4096}}
	if err := good.check(0, 4096); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*piece){
		"gap":               func(p *piece) { p.offset = 1 },
		"empty":             func(p *piece) { p.length = 0 },
		"past the disk":     func(p *piece) { p.length = 4097 },
		"negative":          func(p *piece) { p.length = -1 },
		"huge chunk":        func(p *piece) { p.raw = 1 << 40 },
		"huge stored":       func(p *piece) { p.stored = 1 << 32 },
		"past the pack":     func(p *piece) { p.at = vault.MaxPack },
		"before the pack":   func(p *piece) { p.at = -1 },
		"past the chunk":    func(p *piece) { p.chunkOffset = 1 },
		"before the chunk":  func(p *piece) { p.chunkOffset = -1 },
		"nothing in store":  func(p *piece) { p.stored = 0 },
		"a chunk of no raw": func(p *piece) { p.raw = 0 },
	} {
		p := good
		change(&p)
		if err := p.check(0, 4096); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestKept(t *testing.T) {
	k := newKept(1000)
	a, b, c := id.Chunk{1}, id.Chunk{2}, id.Chunk{3}
	a[8], b[8], c[8] = 1, 2, 3
	k.offer(a, make([]byte, 100))
	if k.get(a) != nil {
		t.Error("a chunk decoded once is kept")
	}
	buf := bytes.Repeat([]byte("a"), 200)
	k.offer(a, buf)
	clear(buf)
	if got := k.get(a); len(got) != 200 || got[0] != 'a' {
		t.Errorf("kept %q", got)
	}
	for i := range 20 {
		x := id.Chunk{4, byte(i)}
		x[8] = byte(i + 1)
		k.offer(x, make([]byte, 200))
		k.offer(x, make([]byte, 200))
		if k.size > k.limit {
			t.Fatalf("%d bytes kept", k.size)
		}
	}
	if k.get(a) != nil {
		t.Error("the least recently used is still there")
	}
	k.offer(b, make([]byte, 300))
	k.offer(b, make([]byte, 300))
	if k.get(b) != nil {
		t.Error("a chunk of a third of all room is kept")
	}
}
