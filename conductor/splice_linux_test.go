package conductor

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/sidecar"
)

// scatter overwrites one block in a hundred with noise and returns how many bytes
// that were.
func scatter(t *testing.T, path string, rng *rand.Rand) (changed int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	blocks := int(info.Size() / 4096)
	noise := rand.NewChaCha8([32]byte{byte(rng.Uint32())})
	block := make([]byte, 4096)
	for _, n := range rng.Perm(blocks)[:blocks/100] {
		_, _ = noise.Read(block)
		if _, err := f.WriteAt(block, int64(n)*4096); err != nil {
			t.Fatal(err)
		}
		changed += 4096
	}
	return changed
}

func folderSize(t *testing.T, path string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func (b *bed) next(t *testing.T) (Summary, *catalog.State) {
	t.Helper()
	s, err := Backup(t.Context(), b.options(t))
	if err != nil || s.Outcome != "done" || s.SlotsLeft != 0 {
		t.Fatalf("outcome %q, %v, %d slots left, %+v", s.Outcome, err, s.SlotsLeft, s.Guests)
	}
	sum(t, s)
	return s, b.check(t)
}

// A backup after scattered writes stores what was written and little else: packs,
// tables and ledger together at most 1.4 times as much, backup after backup, though
// the noise does not compress. bench/increments does 30 of them.
func TestScatteredWrites(t *testing.T) {
	b := newBed(t, 56<<20)
	b.next(t)
	rng := rand.New(rand.NewPCG(9, 9))
	before := folderSize(t, b.root)
	for n := range 12 {
		changed := scatter(t, b.image, rng)
		s, state := b.next(t)
		after := folderSize(t, b.root)
		ratio := float64(after-before) / float64(changed)
		layers := len(state.Points[s.Points()[0]].Disks[0].Extents)
		t.Logf("increment %d: %d bytes changed, %d new, the vault grew by %d (%.3f), %d layers", n, changed, s.Finished.NewBytes, after-before, ratio, layers)
		if ratio > 1.4 || layers > 8 || s.Finished.NewBytes != changed {
			t.Errorf("increment %d: new %d of %d, ratio %.3f, %d layers", n, s.Finished.NewBytes, changed, ratio, layers)
		}
		before = after
	}
}

// A sidecar that is lost, damaged or out of date costs room and no more, and the
// next backup has one again.
func TestSidecarsMayBeLost(t *testing.T) {
	harm := map[string]func(t *testing.T, path string){
		"lost": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"flipped": func(t *testing.T, path string) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for n := 512; n < len(text); n += 3001 {
				text[n] ^= 4
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, hurt := range harm {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, 40<<20)
			b.next(t)
			rng := rand.New(rand.NewPCG(4, 4))
			scatter(t, b.image, rng)
			b.next(t)
			found, err := filepath.Glob(filepath.Join(b.state, "cache", "*", sidecar.Folder, "*.blocks"))
			if err != nil || len(found) != 1 {
				t.Fatalf("sidecars: %q, %v", found, err)
			}
			hurt(t, found[0])
			scatter(t, b.image, rng)
			b.next(t)
			changed := scatter(t, b.image, rng)
			if s, _ := b.next(t); s.Finished.NewBytes != changed {
				t.Errorf("%d bytes are new after the sidecar was made again, %d were changed", s.Finished.NewBytes, changed)
			}
		})
	}
}

// Blocks that go from A to B and back to A, also by way of zeros, of a hole and of a
// backup without a sidecar, are seen to change every time.
func TestBlocksThatComeBack(t *testing.T) {
	b := newBed(t, 24<<20)
	first, err := os.ReadFile(b.image)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	b.next(t)
	away := []func(){
		func() { scatter(t, b.image, rng) },
		func() { overwrite(t, b.image, make([]byte, len(first))) },
		func() {
			if err := os.Truncate(b.image, 0); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(b.image, int64(len(first))); err != nil {
				t.Fatal(err)
			}
		},
		func() { // half of each cell, so that some are cut afresh
			other := append([]byte(nil), first...)
			for at := 0; at < len(other); at += 8192 {
				copy(other[at:], first[:4096])
			}
			overwrite(t, b.image, other)
		},
	}
	for n, change := range away {
		change()
		b.next(t)
		overwrite(t, b.image, first)
		if n == 2 {
			o := b.options(t)
			o.Scan = "full"
			if s, err := Backup(t.Context(), o); err != nil || s.Outcome != "done" {
				t.Fatal(s.Outcome, err)
			}
			b.check(t)
			change()
			b.next(t)
			overwrite(t, b.image, first)
		}
		b.next(t)
	}
}

func overwrite(t *testing.T, path string, text []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(text, 0); err != nil {
		t.Fatal(err)
	}
}

// A disk that has grown or shrunk is another one to its sidecar.
func TestDiskOfAnotherSize(t *testing.T) {
	b := newBed(t, 24<<20)
	b.next(t)
	rng := rand.New(rand.NewPCG(6, 6))
	for _, size := range []int64{31<<20 + 512, 20 << 20, 20<<20 - 512, 24 << 20} {
		if err := os.Truncate(b.image, size); err != nil {
			t.Fatal(err)
		}
		b.next(t)
		changed := scatter(t, b.image, rng)
		// A block written into a hole may take the zeros up to the end of its cell along.
		if s, _ := b.next(t); s.Finished.NewBytes < changed || s.Finished.NewBytes > changed+64<<10 {
			t.Errorf("%d bytes: %d are new, %d were changed", size, s.Finished.NewBytes, changed)
		}
	}
}
