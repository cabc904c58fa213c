package chunkindex

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/id"
)

func chunkN(n int) id.Chunk {
	return id.Chunk(sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(n))))
}

func placeN(n int) Place {
	return Place{Job: id.Job{byte(n % 3)}, Pack: id.Object{byte(n % 7), 1}, Offset: uint32(n), Stored: uint32(n % 1000), Raw: uint32(n + 1)}
}

func source(name byte, from, to int) Source {
	return Source{Name: id.Object{name}, Rows: func(context.Context) iter.Seq2[Row, error] {
		return func(yield func(Row, error) bool) {
			for n := from; n < to; n++ {
				if !yield(Row{chunkN(n), placeN(n)}, nil) {
					return
				}
			}
		}
	}}
}

func TestEveryChunkIsFoundWhereItIs(t *testing.T) {
	folder := t.TempDir()
	var sources []Source
	for i := range 20 { // small ones are merged at once
		sources = append(sources, source(byte(i+1), i*1000, (i+1)*1000+200)) // overlapping
		paths, err := Refresh(t.Context(), folder, sources)
		if err != nil {
			t.Fatal(err)
		}
		if len(paths) > 1 {
			t.Fatalf("%d files after %d tables", len(paths), i+1)
		}
	}
	paths, err := Refresh(t.Context(), folder, sources)
	if err != nil {
		t.Fatal(err)
	}
	x, err := Open(paths)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for _, way := range []string{"fanout held in memory", "fanout read, as one too large is"} {
		for n := range 20200 {
			if p, ok := x.Find(chunkN(n)); !ok || p != placeN(n) {
				t.Fatalf("%s: chunk %d: %v %+v, want %+v", way, n, ok, p, placeN(n))
			}
		}
		for n := 20200; n < 40000; n++ {
			if x.Has(chunkN(n)) {
				t.Fatalf("%s: chunk %d is found but was never put in", way, n)
			}
		}
		for _, f := range x.files {
			f.held = nil
		}
	}
}

func TestWhatWasRetiredIsNotFound(t *testing.T) {
	folder := t.TempDir()
	if _, err := Refresh(t.Context(), folder, []Source{source(1, 0, 100), source(2, 100, 200)}); err != nil {
		t.Fatal(err)
	}
	paths, err := Refresh(t.Context(), folder, []Source{source(2, 100, 200)})
	if err != nil {
		t.Fatal(err)
	}
	x, err := Open(paths)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if x.Has(chunkN(5)) || !x.Has(chunkN(105)) {
		t.Fatalf("retired found: %v, kept found: %v", x.Has(chunkN(5)), x.Has(chunkN(105)))
	}
}

// A flipped bit anywhere may lose an answer but never give a wrong one, and a
// refresh mends what it can see.
func TestDamageNeverPlacesAChunkWrongly(t *testing.T) {
	folder := t.TempDir()
	src := []Source{source(1, 0, 300)}
	paths, err := Refresh(t.Context(), folder, src)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for at := 0; at < len(whole); at += 29 {
		bad := append([]byte{}, whole...)
		bad[at] ^= 1 << (at % 8)
		path := filepath.Join(t.TempDir(), "x.idx")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := Open([]string{path})
		if err != nil {
			continue
		}
		for n := range 300 {
			p, ok := x.Find(chunkN(n))
			if ok && p != placeN(n) {
				t.Fatalf("byte %d flipped: chunk %d is placed at %+v", at, n, p)
			}
			if !ok {
				lost++
			}
		}
		x.Close()
	}
	if lost == 0 {
		t.Fatal("no flip was noticed: the test flips nothing that matters")
	}
	if err := os.Truncate(paths[0], int64(len(whole)-5)); err != nil {
		t.Fatal(err)
	}
	again, err := Refresh(t.Context(), folder, src)
	if err != nil {
		t.Fatal(err)
	}
	x, err := Open(again)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if !x.Has(chunkN(299)) {
		t.Fatal("a truncated file was not built again")
	}
}

// TestUnreadableSourcePlacesNothing: what it gave before it broke neither, and it
// is asked again until it can be read.
func TestUnreadableSourcePlacesNothing(t *testing.T) {
	folder := t.TempDir()
	whole := source(2, 100, 200)
	broken := Source{Name: whole.Name, Rows: func(ctx context.Context) iter.Seq2[Row, error] {
		return func(yield func(Row, error) bool) {
			for r := range whole.Rows(ctx) {
				if !yield(r, nil) {
					return
				}
			}
			yield(Row{}, fmt.Errorf("table: %w", ErrUnreadable))
		}
	}}
	for n, c := range []struct {
		sources []Source
		first   bool
		second  bool
	}{
		{[]Source{broken}, false, false},
		{[]Source{source(1, 0, 100), broken}, true, false},
		{[]Source{source(1, 0, 100), broken}, true, false},
		{[]Source{source(1, 0, 100), whole}, true, true},
	} {
		paths, err := Refresh(t.Context(), folder, c.sources)
		if err != nil {
			t.Fatal(err)
		}
		x, err := Open(paths)
		if err != nil {
			t.Fatal(err)
		}
		if x.Has(chunkN(5)) != c.first || x.Has(chunkN(105)) != c.second {
			t.Errorf("refresh %d: found %v and %v, want %v and %v", n, x.Has(chunkN(5)), x.Has(chunkN(105)), c.first, c.second)
		}
		x.Close()
	}
}
