package chunkindex

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/millrace-backup/millrace/id"
)

// Index is a set of open files.
type Index struct {
	files   []*file
	scratch sync.Pool
}

// Open opens the files that Refresh returned. Find then needs no lock.
func Open(paths []string) (*Index, error) {
	x := &Index{}
	x.scratch.New = func() any { return new([]byte) }
	for _, p := range paths {
		f, err := openFile(p)
		if err != nil {
			x.Close()
			return nil, err
		}
		x.files = append(x.files, f)
	}
	return x, nil
}

// Close closes the files.
func (x *Index) Close() error {
	var errs []error
	for _, f := range x.files {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(errs...)
}

// Find says where the chunk is, if any file knows it.
func (x *Index) Find(c id.Chunk) (Place, bool) {
	buf := x.scratch.Get().(*[]byte)
	defer x.scratch.Put(buf)
	for _, f := range x.files {
		if p, ok := f.find(c, buf); ok {
			return p, true
		}
	}
	return Place{}, false
}

// Has reports whether the chunk is in the vault.
func (x *Index) Has(c id.Chunk) bool { _, ok := x.Find(c); return ok }

// maxFiles is how many files a look-up may have to ask before they are merged.
const maxFiles = 8

// Source is something of the vault that places chunks: a chunk table, or the
// footer of a pack that no table covers yet. Name must never mean two contents.
type Source struct {
	Name id.Object
	// Rows are in any order. One that yields ErrUnreadable places nothing.
	Rows func(ctx context.Context) iter.Seq2[Row, error]
}

// ErrUnreadable: a source is damaged or lost. Its chunks are unknown, which costs
// space and no data, and the next Refresh asks it again.
var ErrUnreadable = errors.New("source cannot be read")

// Refresh brings the index in folder up to date with the sources that the ledger
// names now and returns the files to Open. Files that cover something the ledger
// no longer names are dropped and what they covered is read again: what was
// retired must never be found. Several processes may refresh at once; each ends
// with a valid set. A later Refresh may remove the files: who opens them more
// than once links them to where they stay.
func Refresh(ctx context.Context, folder string, sources []Source) (paths []string, err error) {
	for range 3 { // another process may merge files that this one was about to read
		if paths, err = refresh(ctx, folder, sources); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return paths, err
}

func refresh(ctx context.Context, folder string, sources []Source) ([]string, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the chunk index folder: %w", err)
	}
	wanted := map[id.Object]bool{}
	for _, s := range sources {
		wanted[s.Name] = true
	}
	paths, covered, err := usable(folder, wanted)
	if err != nil {
		return nil, err
	}
	var missing []Source
	for _, s := range sources {
		if !covered[s.Name] {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		return paths, nil
	}
	rows, names, err := collect(ctx, missing)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return paths, nil // nothing that is missing can be read
	}
	old := paths
	if merge := len(paths)+1 > maxFiles; merge {
		for _, p := range paths {
			more, also, err := readAll(p)
			if err != nil {
				return nil, err
			}
			rows, names = append(rows, more...), append(names, also...)
		}
		paths = nil
	}
	rows = sorted(rows)
	path := filepath.Join(folder, fileName(names))
	if err := write(path, names, rows); err != nil {
		return nil, err
	}
	if paths == nil { // merged: open files of others stay readable until closed
		for _, p := range old {
			if p != path {
				_ = os.Remove(p)
			}
		}
	}
	return append(paths, path), nil
}

// usable lists the files whose every covered source is still wanted, and drops the others.
func usable(folder string, wanted map[id.Object]bool) (paths []string, covered map[id.Object]bool, err error) {
	covered = map[id.Object]bool{}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, nil, fmt.Errorf("list the chunk index: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".idx") {
			continue
		}
		path := filepath.Join(folder, e.Name())
		x, err := openFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			x.f.Close()
		}
		stale := err != nil || slices.ContainsFunc(x.covered, func(o id.Object) bool { return !wanted[o] })
		redundant := !stale && !slices.ContainsFunc(x.covered, func(o id.Object) bool { return !covered[o] })
		if stale || redundant {
			_ = os.Remove(path)
			continue
		}
		paths = append(paths, path)
		for _, o := range x.covered {
			covered[o] = true
		}
	}
	return paths, covered, nil
}

func collect(ctx context.Context, sources []Source) (rows []Row, names []id.Object, err error) {
	for _, s := range sources {
		before, whole := len(rows), true
		for r, err := range s.Rows(ctx) {
			if errors.Is(err, ErrUnreadable) {
				rows, whole = rows[:before], false
				break
			}
			if err != nil {
				return nil, nil, fmt.Errorf("index the chunks of %s: %w", s.Name, err)
			}
			rows = append(rows, r)
		}
		if whole {
			names = append(names, s.Name)
		}
	}
	return rows, names, nil
}

func readAll(path string) (rows []Row, covered []id.Object, err error) {
	x, err := openFile(path)
	if err != nil {
		return nil, nil, err
	}
	defer x.f.Close()
	for r, err := range x.rows() {
		if err != nil {
			return nil, nil, err
		}
		rows = append(rows, r)
	}
	return rows, x.covered, nil
}

// sorted orders the rows by chunk and keeps the first place of each.
func sorted(rows []Row) []Row {
	slices.SortStableFunc(rows, func(a, b Row) int { return a.Chunk.Compare(b.Chunk) })
	return slices.CompactFunc(rows, func(a, b Row) bool { return a.Chunk == b.Chunk })
}

func fileName(covered []id.Object) string {
	var all []byte
	slices.SortFunc(covered, func(a, b id.Object) int { return strings.Compare(string(a[:]), string(b[:])) })
	for _, o := range covered {
		all = append(all, o[:]...)
	}
	return id.Sum(all).String()[:32] + ".idx"
}
