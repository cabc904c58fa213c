package chunkindex

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestGrowingFindsAllThatWasAdded, in memory and in files, and so does who
// follows its folder, as far as it is in files.
func TestGrowingFindsAllThatWasAdded(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "stored")
	g, err := Grow(folder, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	x, err := OpenFolders(folder, filepath.Join(t.TempDir(), "there is none"))
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	rnd := rand.New(rand.NewPCG(1, 1))
	for n := range 10_050 {
		if err := g.Add(Row{chunkN(n), placeN(n)}); err != nil {
			t.Fatal(err)
		}
		if k := rnd.IntN(n + 1); n%37 == 0 {
			if p, ok := g.Find(chunkN(k)); !ok || p != placeN(k) {
				t.Fatalf("chunk %d of %d: %v %+v", k, n, ok, p)
			}
			if _, ok := g.Find(chunkN(n + 1)); ok {
				t.Fatalf("chunk %d is found before it is added", n+1)
			}
		}
		if n%500 == 0 {
			if err := x.TakeUp(n%1000 == 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := x.TakeUp(true); err != nil {
		t.Fatal(err)
	}
	for n := range 10_050 {
		if p, ok := x.Find(chunkN(n)); ok != (n < 10_000) || ok && p != placeN(n) {
			t.Fatalf("who follows: chunk %d: %v %+v", n, ok, p)
		}
	}
	if len(g.files) > 6 || len(g.newest) != 50 {
		t.Errorf("%d files, %d in memory", len(g.files), len(g.newest))
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != len(g.files) {
		t.Errorf("%d entries for %d files: %v", len(entries), len(g.files), err)
	}
	// A process that begins again begins with nothing, and who follows sees that.
	again, err := Grow(folder, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := x.TakeUp(true); err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Find(chunkN(1)); ok || x.Has(chunkN(1)) {
		t.Error("what a predecessor stored is found before it is added again")
	}
}

// TestFollowedFilesComeAndGo, while others look up; a file that is not whole places nothing.
func TestFollowedFilesComeAndGo(t *testing.T) {
	folder := t.TempDir()
	if err := Write(filepath.Join(folder, "always.idx"), []Row{{chunkN(1), placeN(1)}, {chunkN(0), placeN(0)}, {chunkN(1), placeN(7)}}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "broken.idx"), []byte(magic), 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := OpenFolders(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	stop := make(chan bool)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if p, ok := x.Find(chunkN(1)); !ok || p != placeN(1) {
					t.Errorf("chunk 1: %v %+v", ok, p)
					return
				}
			}
		})
	}
	for n := range 30 {
		path := filepath.Join(folder, fmt.Sprintf("%d.idx", n))
		if err := Write(path, []Row{{chunkN(100 + n), placeN(100 + n)}}); err != nil {
			t.Fatal(err)
		}
		if err := x.TakeUp(true); err != nil {
			t.Fatal(err)
		}
		if !x.Has(chunkN(100 + n)) {
			t.Fatalf("file %d is not seen", n)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := x.TakeUp(true); err != nil {
			t.Fatal(err)
		}
		if x.Has(chunkN(100 + n)) {
			t.Fatalf("file %d is seen after it has gone", n)
		}
	}
	close(stop)
	all.Wait()
}

// TestFilesAreFewAndTheirRowsAreCopiedSeldom: sources come one by one; each file
// has more than the smaller ones together, and all are found.
func TestFilesAreFewAndTheirRowsAreCopiedSeldom(t *testing.T) {
	if testing.Short() {
		t.Skip("a million chunks")
	}
	folder := t.TempDir()
	const each = smallFile
	var sources []Source
	var paths []string
	for n := range 16 {
		sources = append(sources, source(byte(n+1), n*each, (n+1)*each))
		var err error
		if paths, err = Refresh(t.Context(), folder, sources); err != nil {
			t.Fatal(err)
		}
		if len(paths) > 3 {
			t.Fatalf("%d files for %d rows", len(paths), (n+1)*each)
		}
	}
	x, err := Open(paths)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 30_000 {
		n := rnd.IntN(2 * 16 * each)
		if p, ok := x.Find(chunkN(n)); ok != (n < 16*each) || ok && p != placeN(n) {
			t.Fatalf("chunk %d: %v %+v", n, ok, p)
		}
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), making) {
			t.Errorf("%s is left over", e.Name())
		}
	}
}

// TestManyRefreshAtOnce: each gets a set that has all that it asked for, though
// the others merge and remove files meanwhile.
func TestManyRefreshAtOnce(t *testing.T) {
	folder := t.TempDir()
	var all sync.WaitGroup
	for p := range 4 {
		all.Go(func() {
			var sources []Source
			for n := range 12 {
				sources = append(sources, source(byte(n+1), n*300, (n+1)*300))
				paths, err := Refresh(t.Context(), folder, append(sources[:0:0], sources...))
				if err != nil {
					t.Errorf("process %d: %v", p, err)
					return
				}
				x, err := Open(paths)
				if err != nil {
					continue // merged by another meanwhile: a job links what it is given, and asks again
				}
				for k := range (n + 1) * 300 {
					if got, ok := x.Find(chunkN(k)); !ok || got != placeN(k) {
						t.Errorf("process %d: chunk %d of %d: %v %+v", p, k, (n+1)*300, ok, got)
						break
					}
				}
				x.Close()
			}
		})
	}
	all.Wait()
}
