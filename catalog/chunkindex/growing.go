package chunkindex

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/id"
)

const (
	growingChunks = 1 << 16 // in memory
	growingMerge  = 1 << 21 // rows: files are not merged beyond it, which would keep the job waiting
)

// Growing is an index that one process adds to, with bounded memory: its newest
// chunks are in memory, the others in files that other processes may follow. It
// begins empty: whoever restarts adds again what is durable. Not for several
// goroutines.
type Growing struct {
	folder string
	limit  int // chunks in memory
	newest map[id.Chunk]inMemory
	packs  []packKey // of the newest
	files  []grown   // as they were made
	made   int
	buf    []byte
}

type inMemory struct{ pack, offset, stored, raw uint32 }

type grown struct {
	*file
	path string
}

// Grow begins an index in a folder of its own, which is made empty. After each
// limit chunks there is a file; 0 means 65,536.
func Grow(path string, limit int) (*Growing, error) {
	err := os.RemoveAll(path)
	if err == nil {
		err = os.MkdirAll(path, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("begin a chunk index: %w", err)
	}
	if limit == 0 {
		limit = growingChunks
	}
	return &Growing{folder: path, limit: limit, newest: map[id.Chunk]inMemory{}, buf: make([]byte, 2*perBucket*entryBytes)}, nil
}

// Add enters a chunk. Of two places the later one counts, or either.
func (g *Growing) Add(r Row) error {
	k := packKey{r.Job, r.Pack}
	if n := len(g.packs); n == 0 || g.packs[n-1] != k { // packs come one after the other
		g.packs = append(g.packs, k)
	}
	g.newest[r.Chunk] = inMemory{uint32(len(g.packs) - 1), r.Offset, r.Stored, r.Raw}
	if len(g.newest) < g.limit {
		return nil
	}
	return g.flush()
}

// Find says where a chunk is that was added.
func (g *Growing) Find(c id.Chunk) (Place, bool) {
	if m, ok := g.newest[c]; ok {
		return g.place(m), true
	}
	for i := len(g.files) - 1; i >= 0; i-- {
		if p, ok := g.files[i].find(c, &g.buf); ok {
			return p, true
		}
	}
	return Place{}, false
}

func (g *Growing) place(m inMemory) Place {
	return Place{g.packs[m.pack].Job, g.packs[m.pack].Pack, m.offset, m.stored, m.raw}
}

// flush makes a file of what is in memory and merges it with others as Refresh
// does. The new file is there before the old ones go.
func (g *Growing) flush() error {
	keys := make([]id.Chunk, 0, len(g.newest))
	for c := range g.newest {
		keys = append(keys, c)
	}
	slices.SortFunc(keys, id.Chunk.Compare)
	parts := []iter.Seq2[Row, error]{func(yield func(Row, error) bool) {
		for _, c := range keys {
			if !yield(Row{c, g.place(g.newest[c])}, nil) {
				return
			}
		}
	}}
	rows := uint64(len(keys))
	slices.SortFunc(g.files, func(a, b grown) int { return cmp.Compare(a.count, b.count) })
	merged := 0
	for _, f := range g.files {
		if f.count > mergeRatio*rows || rows+f.count > growingMerge {
			break
		}
		parts, rows = append(parts, f.rows()), rows+f.count
		merged++
	}
	g.made++
	path := filepath.Join(g.folder, fmt.Sprintf("%08d%s", g.made, suffix))
	if err := write(path, nil, rows, once(merge(parts))); err != nil {
		return err
	}
	f, err := openFile(path)
	if err != nil {
		return err
	}
	for _, old := range g.files[:merged] {
		_ = old.f.Close()
		_ = os.Remove(old.path) // Windows keeps it while another process reads it: it says nothing else
	}
	g.files = append(slices.Clone(g.files[merged:]), grown{f, path})
	g.packs = g.packs[:0]
	clear(g.newest)
	return nil
}

// Close closes the files and leaves them.
func (g *Growing) Close() error {
	var errs []error
	for _, f := range g.files {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(errs...)
}
