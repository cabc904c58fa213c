package chunkindex

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/id"
)

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

const (
	smallFile  = 1 << 16 // rows: smaller files are merged whenever there is something new
	mergeRatio = 3       // so are those that have at most this many times the rows of all that is merged
	sortBudget = 4 << 20
	abandoned  = 24 * time.Hour // an unfinished file of this age is of a process that died
)

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

// kept is a usable file.
type kept struct {
	path    string
	rows    uint64
	covered []id.Object
}

func refresh(ctx context.Context, folder string, sources []Source) ([]string, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the chunk index folder: %w", err)
	}
	wanted := map[id.Object]bool{}
	for _, s := range sources {
		wanted[s.Name] = true
	}
	files, covered, err := usable(folder, wanted)
	if err != nil {
		return nil, err
	}
	sources = slices.DeleteFunc(slices.Clone(sources), func(s Source) bool { return covered[s.Name] })
	if len(sources) > 0 {
		if files, err = add(ctx, folder, files, sources); err != nil {
			return nil, err
		}
	}
	var paths []string
	for _, k := range files {
		paths = append(paths, k.path)
	}
	return paths, nil
}

// usable lists the files whose every covered source is still wanted, and drops
// the others, those of another version and what dead processes left half made.
func usable(folder string, wanted map[id.Object]bool) (files []kept, covered map[id.Object]bool, err error) {
	covered = map[id.Object]bool{}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, nil, fmt.Errorf("list the chunk index: %w", err)
	}
	sweep(folder, entries)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		path := filepath.Join(folder, e.Name())
		k, err := look(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		stale := err != nil || slices.ContainsFunc(k.covered, func(o id.Object) bool { return !wanted[o] })
		redundant := !stale && !slices.ContainsFunc(k.covered, func(o id.Object) bool { return !covered[o] })
		if stale || redundant {
			_ = os.Remove(path)
			continue
		}
		files = append(files, k)
		for _, o := range k.covered {
			covered[o] = true
		}
	}
	return files, covered, nil
}

func look(path string) (kept, error) {
	x, err := openFile(path)
	if err != nil {
		return kept{}, err
	}
	defer x.f.Close()
	names, err := x.names()
	return kept{path, x.count, names}, err
}

// sweep removes unfinished files that are much older than the newest file here.
func sweep(folder string, entries []os.DirEntry) {
	var newest time.Time
	times := map[string]time.Time{}
	for _, e := range entries {
		if st, err := e.Info(); err == nil {
			times[e.Name()] = st.ModTime()
			if st.ModTime().After(newest) {
				newest = st.ModTime()
			}
		}
	}
	for name, t := range times {
		if strings.HasPrefix(name, making) && newest.Sub(t) > abandoned {
			_ = os.Remove(filepath.Join(folder, name))
		}
	}
}

// add makes a file of what the sources have, with what is small beside it.
func add(ctx context.Context, folder string, files []kept, sources []Source) ([]kept, error) {
	scratch, err := os.CreateTemp(folder, making+"*")
	if err != nil {
		return nil, fmt.Errorf("write chunk index: %w", err)
	}
	_ = scratch.Close()
	log, err := spill.Create(scratch.Name())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	g := gathered{sorter: spill.NewSorter(log, gatheredBytes, sortBudget), numbers: map[packKey]uint32{}}
	made := kept{}
	for n, s := range sources {
		whole, err := g.take(ctx, uint32(n), s)
		if err != nil {
			return nil, err
		}
		if whole {
			made.covered = append(made.covered, s.Name)
		}
	}
	if len(made.covered) == 0 {
		return files, nil // nothing that is missing can be read
	}
	made.rows = uint64(g.sorter.Len())
	slices.SortFunc(files, func(a, b kept) int { return cmp.Compare(a.rows, b.rows) })
	parts, merged := []iter.Seq2[Row, error]{g.sorted()}, 0
	for _, k := range files {
		if k.rows > smallFile && k.rows > mergeRatio*made.rows {
			break
		}
		x, err := openFile(k.path)
		if err != nil {
			return nil, err
		}
		defer x.f.Close()
		parts = append(parts, x.rows())
		made.rows += k.rows
		made.covered = append(made.covered, k.covered...)
		merged++
	}
	made.path = filepath.Join(folder, fileName(made.covered))
	if err := write(made.path, made.covered, made.rows, once(merge(parts))); err != nil {
		return nil, err
	}
	for _, k := range files[:merged] { // open files of others stay readable until closed
		if k.path != made.path {
			_ = os.Remove(k.path)
		}
	}
	return append(files[merged:], made), nil
}

// gathered is rows of sources on their way into order.
type gathered struct {
	sorter  *spill.Sorter // chunk 32, source, pack, offset, stored, raw: u32, big-endian
	packs   []packKey
	numbers map[packKey]uint32
	lost    map[uint32]bool // sources that turned out unreadable
	record  []byte
}

const gatheredBytes = 32 + 5*4

// take adds the rows of a source and reports whether they are all of it.
func (g *gathered) take(ctx context.Context, n uint32, s Source) (whole bool, err error) {
	for r, err := range s.Rows(ctx) {
		if errors.Is(err, ErrUnreadable) {
			if g.lost == nil {
				g.lost = map[uint32]bool{}
			}
			g.lost[n] = true // what came of it so far is passed over
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("index the chunks of %s: %w", s.Name, err)
		}
		k := packKey{r.Job, r.Pack}
		pack, ok := g.numbers[k]
		if !ok {
			pack = uint32(len(g.packs))
			g.numbers[k], g.packs = pack, append(g.packs, k)
		}
		g.record = append(g.record[:0], r.Chunk[:]...)
		for _, v := range [...]uint32{n, pack, r.Offset, r.Stored, r.Raw} {
			g.record = binary.BigEndian.AppendUint32(g.record, v)
		}
		if err := g.sorter.Add(g.record); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (g *gathered) sorted() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for b, err := range g.sorter.Sorted() {
			if err != nil {
				yield(Row{}, err)
				return
			}
			n := func(i int) uint32 { return binary.BigEndian.Uint32(b[32+4*i:]) }
			if g.lost[n(0)] {
				continue
			}
			k := g.packs[n(1)]
			if !yield(Row{id.Chunk(b[:32]), Place{k.Job, k.Pack, n(2), n(3), n(4)}}, nil) {
				return
			}
		}
	}
}

// merge yields the rows of all parts, each in order, in order; of equal ones that
// of the first part first.
func merge(parts []iter.Seq2[Row, error]) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		type part struct {
			next func() (Row, error, bool)
			row  Row
		}
		var open []*part
		advance := func(p *part) (more bool, err error) {
			p.row, err, more = p.next()
			return more, err
		}
		for _, rows := range parts {
			next, stop := iter.Pull2(rows)
			defer stop()
			p := &part{next: next}
			more, err := advance(p)
			if err != nil {
				yield(Row{}, err)
				return
			}
			if more {
				open = append(open, p)
			}
		}
		for len(open) > 0 {
			least := 0
			for i := 1; i < len(open); i++ {
				if open[i].row.Chunk.Compare(open[least].row.Chunk) < 0 {
					least = i
				}
			}
			if !yield(open[least].row, nil) {
				return
			}
			more, err := advance(open[least])
			if err != nil {
				yield(Row{}, err)
				return
			}
			if !more {
				open = slices.Delete(open, least, least+1)
			}
		}
	}
}

func fileName(covered []id.Object) string {
	var all []byte
	slices.SortFunc(covered, func(a, b id.Object) int { return strings.Compare(string(a[:]), string(b[:])) })
	for _, o := range covered {
		all = append(all, o[:]...)
	}
	return id.Sum(all).String()[:32] + suffix
}
