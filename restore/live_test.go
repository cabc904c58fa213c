package restore

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millrace-backup/millrace/restore/live"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// Many readers at once, in and out of order, from a cache that holds a tenth of the disk.
func TestLive(t *testing.T) {
	f := newFixture(t, "auto")
	var content []byte
	for i := range uint64(10) {
		content = append(append(append(content, text(i, 4*mib)...), noise(i, 3*mib)...), make([]byte, 1*mib)...)
	}
	content = content[:len(content)-1000] // ends within a sector
	d := f.backup("disk", content)
	c := live.NewCache(8 * mib)
	m, err := c.Open(t.Context(), f.v, d)
	must(t, err)
	must(t, vdisktest.Equal(m, vdisktest.FromBytes(content), 0, m.Size()))
	var readers sync.WaitGroup
	for n := range uint64(8) {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(n, 1))
			at := int64(0)
			for range 300 {
				p := make([]byte, 1+r.IntN(300*kib))
				if r.IntN(3) == 0 {
					at = r.Int64N(m.Size())
				}
				got, err := m.ReadAt(p, at)
				end := min(at+int64(len(p)), m.Size())
				if want := int(end - at); got != want || (err != nil) != (want < len(p)) || err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("read %d at %d: %d, %v", len(p), at, got, err)
					return
				}
				if !slices.Equal(p[:got], content[at:end]) {
					t.Errorf("read %d at %d: other bytes", len(p), at)
					return
				}
				if at = end; at == m.Size() {
					at = 0
				}
			}
		})
	}
	readers.Wait()
	must(t, m.Close())
	if s := c.Stats(); s.Held > 8*mib || s.Hits == 0 || s.Misses == 0 {
		t.Errorf("%+v", s)
	}
	if _, err := m.ReadAt(make([]byte, 4096), 0); err == nil {
		t.Error("a read after closing")
	}
}

// What is read ahead is read once: going through the disk fetches each chunk a single time.
func TestLiveInOrder(t *testing.T) {
	f := newFixture(t, "none")
	content := noise(1, 32*mib)
	d := f.backup("disk", content)
	c := live.NewCache(16 * mib)
	m, err := c.Open(t.Context(), f.v, d)
	must(t, err)
	p := make([]byte, 64*kib)
	for at := int64(0); at < m.Size(); at += int64(len(p)) {
		_, err := m.ReadAt(p, at)
		must(t, err)
	}
	must(t, m.Close())
	if s := c.Stats(); s.Fetched > 33*mib {
		t.Errorf("%d bytes fetched for a disk of %d: %+v", s.Fetched, len(content), s)
	}
}

// A damaged chunk fails the reads that need it and no others, each time; when the pack is
// put back it is read.
func TestLiveDamage(t *testing.T) {
	f := newFixture(t, "none")
	f.limit = 8
	content := noise(7, 8*mib)
	d := f.backup("disk", content)
	m, err := live.NewCache(0).Open(t.Context(), f.v, d)
	must(t, err)
	defer m.Close()
	first := filepath.Join(f.root, filepath.FromSlash(vault.PackName(f.packs[1].Job, f.packs[1].Name)))
	good, err := os.ReadFile(first)
	must(t, err)
	bad := slices.Clone(good)
	bad[len(bad)/3] ^= 1
	must(t, os.Chmod(first, 0o600))
	for _, c := range []struct {
		name  string
		spoil func() error
		least int
	}{
		{"bit", func() error { return os.WriteFile(first, bad, 0o600) }, 1},
		{"short", func() error { return os.WriteFile(first, good[:len(good)/2], 0o600) }, 1},
		{"gone", func() error { return os.Remove(first) }, 8},
	} {
		must(t, c.spoil())
		failed, p := 0, make([]byte, 4096)
		other, err := live.NewCache(0).Open(t.Context(), f.v, d)
		must(t, err)
		for range 2 {
			for at := int64(0); at < m.Size(); at += int64(len(p)) {
				if _, err := other.ReadAt(p, at); err != nil {
					if failed++; !errors.Is(err, vault.ErrDamaged) {
						t.Fatalf("%s: %v", c.name, err)
					}
				} else if !slices.Equal(p, content[at:at+int64(len(p))]) {
					t.Fatalf("%s: other bytes at %d", c.name, at)
				}
			}
		}
		if failed < 2*c.least*4 || failed > 2*8*64 || failed%2 != 0 {
			t.Errorf("%s: %d reads failed", c.name, failed)
		}
		must(t, os.WriteFile(first, good, 0o600))
		whole := make([]byte, len(content))
		if _, err := other.ReadAt(whole, 0); err != nil || !slices.Equal(whole, content) {
			t.Errorf("%s: after the pack was put back: %v", c.name, err)
		}
		must(t, other.Close())
	}
}

// BenchmarkLive reads a disk where it lies.
func BenchmarkLive(b *testing.B) {
	f := newFixture(b, "auto")
	f.limit = 512
	content := make([]byte, 0, 256*mib)
	for i := range uint64(32) {
		content = append(append(content, text(i, 4*mib)...), noise(i, 4*mib)...)
	}
	d := f.backup("disk", content)
	for _, size := range []int{4 * kib, 64 * kib, 2 * mib} {
		for _, order := range []string{"random", "sequential"} {
			b.Run(fmt.Sprintf("%s/%dK", order, size/kib), func(b *testing.B) {
				c := live.NewCache(32 * mib)
				m, err := c.Open(b.Context(), f.v, d)
				must(b, err)
				b.SetBytes(int64(size))
				b.SetParallelism(8)
				var turn atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					p := make([]byte, size)
					for pb.Next() {
						at := turn.Add(1) * int64(size) % m.Size()
						if order == "random" {
							at = rand.Int64N(m.Size()/4096) * 4096
						}
						at = min(at, m.Size()-int64(size))
						if _, err := m.ReadAt(p, at); err != nil {
							b.Error(err)
							return
						}
					}
				})
				must(b, m.Close())
				b.ReportMetric(float64(c.Stats().Fetched)/float64(b.N)/float64(size), "fetched/byte")
			})
		}
	}
}
