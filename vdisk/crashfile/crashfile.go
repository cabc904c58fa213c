// Package crashfile is one file on a disk that loses power, for tests of formats
// that change a file in place. vault/store/crashfs is its sibling for stores of
// many small files.
//
// [New] makes a [File], which is a vdisk.Image that can be written to, truncated
// and synced. [File.Crash] answers what a power cut at this instant may leave.
// [File.Hook] is called after every effect: every instant at which something can
// have changed.
//
// The rules. What was synced is there. Of what was not, each write and each change
// of the length is there, or not, or (a write) in part: some of its sectors of 512
// bytes, the last of them cut at any byte; in any order, so that the length may be
// there before the bytes, which then are zeros. What a write that is not there
// would have replaced is as it was.
//
// Pages of 4 KiB are shared between a file and what crashes leave of it, so that
// tens of thousands of crashes of a file of some MiB cost seconds.
package crashfile

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/millrace-backup/millrace/vdisk"
)

const (
	pageSize = 4096
	sector   = 512
)

// Mode says what a power cut leaves of what was not synced.
type Mode uint8

// The modes.
const (
	Lost   Mode = iota // nothing
	Random             // some of it, torn and out of order, by the seed
	Kept               // all of it
	Killed             // no cut: a process was killed, all of it is seen and as little durable as before
)

func (m Mode) String() string { return [...]string{"lost", "random", "kept", "killed"}[m] }

// File is a file in memory. Its methods may be called in parallel.
type File struct {
	// Hook is called after each write, change of the length and sync, while
	// nothing else happens to the file. It is set before the file is used.
	Hook func()
	// Lie says, by their number, which syncs do nothing: a planted fault.
	Lie func(sync int) bool

	turn    *sync.Mutex // held while an effect is made and its hook runs
	mu      sync.RWMutex
	now     state
	durable state
	pending []effect
	effects int
	syncs   int
}

// state is a file's bytes. Pages are never changed, only replaced.
type state struct {
	size  int64
	pages map[int64]*[pageSize]byte
}

type effect struct {
	off int64
	b   []byte // nil: off is the new length
}

// New returns an empty file.
func New() *File {
	return &File{now: state{pages: map[int64]*[pageSize]byte{}}, durable: state{pages: map[int64]*[pageSize]byte{}}, turn: new(sync.Mutex)}
}

// Together makes files lie on one disk: while the hook of one runs nothing happens to the
// others either, so that it can crash all of them at one instant. It is called before they
// are used.
func Together(files ...*File) {
	for _, f := range files {
		f.turn = files[0].turn
	}
}

// Effects is the number of effects so far.
func (f *File) Effects() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.effects
}

func (f *File) do(change func()) {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	change()
	f.effects++
	f.mu.Unlock()
	if f.Hook != nil {
		f.Hook()
	}
}

// WriteAt is io.WriterAt; the file grows.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("write at %d: negative offset", off)
	}
	f.do(func() {
		e := effect{off, append(make([]byte, 0, len(b)), b...)}
		f.now.apply(e)
		f.pending = append(f.pending, e)
	})
	return len(b), nil
}

// Truncate sets the length.
func (f *File) Truncate(size int64) error {
	f.do(func() {
		e := effect{off: size}
		f.now.apply(e)
		f.pending = append(f.pending, e)
	})
	return nil
}

// Sync makes durable what was done so far.
func (f *File) Sync() error {
	f.do(func() {
		f.syncs++
		if f.Lie != nil && f.Lie(f.syncs) {
			return
		}
		f.durable, f.pending = f.now.clone(), nil
	})
	return nil
}

// Crash returns the file as it may be found after a power cut now. The file itself
// goes on unharmed.
func (f *File) Crash(m Mode, seed uint64) *File {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if m == Killed {
		return &File{now: f.now.clone(), durable: f.durable.clone(), pending: slices.Clone(f.pending), turn: new(sync.Mutex)}
	}
	s := f.durable.clone()
	rnd := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	// Some seeds lose nearly everything, some nearly nothing: bugs sit at both ends.
	stay := []float64{0.1, 0.5, 0.9}[rnd.IntN(3)]
	// In the order in which they were made: what overlaps does not change places in
	// the page cache, and of the rest any subset may be there, which is every order.
	for _, e := range f.pending {
		switch p := rnd.Float64(); {
		case m == Lost:
		case m == Kept || p < stay*0.6:
			s.apply(e)
		case p < stay && e.b != nil:
			s.tear(e, rnd)
		}
	}
	return &File{now: s, durable: s.clone(), turn: new(sync.Mutex)}
}

func (s *state) clone() state { return state{s.size, maps.Clone(s.pages)} }

func (s *state) apply(e effect) {
	if e.b == nil {
		s.cut(e.off)
		return
	}
	for done := 0; done < len(e.b); {
		at := e.off + int64(done)
		page := new([pageSize]byte)
		if old := s.pages[at/pageSize]; old != nil {
			*page = *old
		}
		done += copy(page[at%pageSize:], e.b[done:])
		s.pages[at/pageSize] = page
	}
	s.size = max(s.size, e.off+int64(len(e.b)))
}

func (s *state) cut(size int64) {
	if size < s.size {
		for n, p := range s.pages {
			if keep := size - n*pageSize; keep <= 0 {
				delete(s.pages, n)
			} else if keep < pageSize {
				page := *p
				clear(page[keep:])
				s.pages[n] = &page
			}
		}
	}
	s.size = size
}

// tear applies some sectors of a write, each possibly cut.
func (s *state) tear(e effect, rnd *rand.Rand) {
	for at := 0; at < len(e.b); {
		end := min(int((e.off+int64(at))/sector*sector+sector-e.off), len(e.b))
		switch rnd.IntN(8) {
		case 0, 1, 2:
		case 3:
			// Often within its first bytes: a header has no others that matter.
			n := min(1+rnd.IntN(1<<rnd.IntN(10)), end-at)
			s.apply(effect{e.off + int64(at), e.b[at : at+n]})
		default:
			s.apply(effect{e.off + int64(at), e.b[at:end]})
		}
		at = end
	}
}

// Size is the length of the file.
func (f *File) Size() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.now.size
}

// ReadAt is io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	in, end := vdisk.Window(p, off, f.now.size)
	for done := 0; done < len(in); {
		at := off + int64(done)
		part := in[done:min(len(in), done+int(pageSize-at%pageSize))]
		if page := f.now.pages[at/pageSize]; page != nil {
			copy(part, page[at%pageSize:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(in), end
}

// Extents lists pages that were written as data.
func (f *File) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		f.mu.RLock()
		size, numbers := f.now.size, slices.Sorted(maps.Keys(f.now.pages))
		f.mu.RUnlock()
		if err := vdisk.CheckRange(size, from, to); err != nil {
			yield(vdisk.Extent{}, err)
			return
		}
		off := from
		for _, n := range numbers {
			first, end := max(off, n*pageSize), min(to, (n+1)*pageSize)
			if first >= end {
				continue
			}
			if err := ctx.Err(); err != nil {
				yield(vdisk.Extent{}, err)
				return
			}
			if !yield(vdisk.Extent{Offset: off, Length: first - off, Kind: vdisk.Zero}, nil) ||
				!yield(vdisk.Extent{Offset: first, Length: end - first, Kind: vdisk.Data}, nil) {
				return
			}
			off = end
		}
		yield(vdisk.Extent{Offset: off, Length: to - off, Kind: vdisk.Zero}, nil)
	})
}

// Bytes is the whole file, for tools that want a real one.
func (f *File) Bytes() []byte {
	b := make([]byte, f.Size())
	_, _ = f.ReadAt(b, 0) // inside the size
	return b
}
