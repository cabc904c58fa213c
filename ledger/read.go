package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Records yields every record from segment position from on, in order, up to
// where the ledger ends when the iteration begins; segments that others have
// appended are adopted first. Every record was proven to be in the tree. An
// error ends the iteration. It may be run again.
func (l *Ledger) Records(ctx context.Context, from uint64) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		if l.vault == nil {
			yield(events.Record{}, fmt.Errorf("records: opened without the password: %w", vault.ErrNoPart))
			return
		}
		for s, err := range l.Segments(ctx, from) {
			var records []events.Record
			if err == nil {
				if records, err = s.open(ctx, l.vault); err != nil {
					err = fmt.Errorf("read %s: %w", segmentName(s.Seq), err)
				}
			}
			if err != nil {
				yield(events.Record{}, err)
				return
			}
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// Segments is Records for those without the password: every proven segment,
// whose clear header says which objects came and went.
func (l *Ledger) Segments(ctx context.Context, from uint64) iter.Seq2[*Segment, error] {
	return func(yield func(*Segment, error) bool) {
		end, err := l.prepare(ctx, from)
		if err != nil {
			yield(nil, err)
			return
		}
		for seq := from; seq < end; seq++ {
			l.mu.Lock()
			s, err := l.proven(ctx, seq)
			l.mu.Unlock()
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// At returns how many leaves the tree has before the segment at position, and its
// root: what a statement about all facts before that position is bound to. A
// position that the ledger has not reached is an error.
func (l *Ledger) At(ctx context.Context, position uint64) (size uint64, root events.Hash, err error) {
	end, err := l.prepare(ctx, position)
	if err != nil {
		return 0, root, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case position > l.seq:
		return 0, root, fmt.Errorf("position %d: the ledger ends before %d: %w", position, end, fs.ErrNotExist)
	case position == l.seq:
		return l.head.Size, l.head.Root(), nil
	case position == l.low:
		return l.lowTree.size, l.lowTree.root, nil
	}
	s, err := l.proven(ctx, position)
	if err != nil {
		return 0, root, err
	}
	return s.PrevSize, s.PrevRoot, nil
}

// prepare proves all segments from from on and returns where they end.
func (l *Ledger) prepare(ctx context.Context, from uint64) (end uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refresh(ctx); err != nil {
		return 0, err
	}
	return l.seq, l.reach(ctx, from)
}

// reach proves segments backwards until from. A header carries the edge of the
// tree before it; with its own leaves that edge must give the root that is
// proven already, and then, since nobody finds two trees of one root, the edge
// and the root before it are proven too.
func (l *Ledger) reach(ctx context.Context, from uint64) error {
	for l.low > from {
		s, err := l.load(ctx, l.low-1, func(s *Segment) error {
			if after := s.after(); after.Size != l.lowTree.size || after.Root() != l.lowTree.root {
				return fmt.Errorf("is not in the tree of size %d, root %s: %w", l.lowTree.size, l.lowTree.root, vault.ErrDamaged)
			}
			return nil
		})
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%s is missing: %w: %w", segmentName(l.low-1), vault.ErrDamaged, err)
		}
		if err != nil {
			return err
		}
		l.low, l.lowTree = s.Seq, mark{s.PrevSize, s.PrevRoot}
		l.leaves[s.Seq] = s.leaf()
		l.read.add(s)
	}
	if l.low == 0 && l.lowTree.size != 0 {
		return fmt.Errorf("%s has %d leaves before it: %w", segmentName(0), l.lowTree.size, vault.ErrDamaged)
	}
	return nil
}

// proven reads a segment that was proven before.
func (l *Ledger) proven(ctx context.Context, seq uint64) (*Segment, error) {
	want := l.leaves[seq]
	if s := l.read.take(seq); s != nil && s.leaf() == want {
		return s, nil
	}
	s, err := l.load(ctx, seq, func(s *Segment) error {
		if s.leaf() != want {
			return fmt.Errorf("is not the one that was proven: %w", vault.ErrDamaged)
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%s is missing: %w: %w", segmentName(seq), vault.ErrDamaged, err)
	}
	return s, err
}

// recent holds segments from when they were proven, backwards, until they are
// handed out, forwards, so that the vault is asked for each once. What does not
// fit is read again.
type recent struct {
	segments map[uint64]*Segment
	size     int
}

const maxRecent = 16 << 20

func (r *recent) add(s *Segment) {
	if n := len(s.clear) + len(s.body); r.size+n <= maxRecent {
		if r.segments == nil {
			r.segments = map[uint64]*Segment{}
		}
		r.segments[s.Seq] = s
		r.size += n
	}
}

// take returns a segment once, nil if it is not held.
func (r *recent) take(seq uint64) *Segment {
	s := r.segments[seq]
	if s != nil {
		delete(r.segments, seq)
		r.size -= len(s.clear) + len(s.body)
	}
	return s
}

// load reads segment seq from the cache or the vault and checks it. What the
// cache holds is dropped without a word if it does not pass; what the vault
// holds is an error.
func (l *Ledger) load(ctx context.Context, seq uint64, check func(*Segment) error) (*Segment, error) {
	if b := l.kept(seq); b != nil {
		if s, err := l.accept(seq, b, check); err == nil {
			return s, nil
		}
	}
	return l.fetch(ctx, seq, check)
}

// fetch is load from the vault alone: where the ledger ends is for the vault to
// say, and a copy of a segment that it no longer has must not hide that.
func (l *Ledger) fetch(ctx context.Context, seq uint64, check func(*Segment) error) (*Segment, error) {
	name := segmentName(seq)
	b, err := store.ReadAll(ctx, l.st, name, int64(maxSegment))
	if errors.Is(err, store.ErrLength) {
		err = fmt.Errorf("%w: %w", vault.ErrDamaged, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	s, err := l.accept(seq, b, check)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	l.keep(seq, b)
	return s, nil
}

func (l *Ledger) accept(seq uint64, b []byte, check func(*Segment) error) (*Segment, error) {
	s, err := parseSegment(b)
	if err != nil {
		return nil, err
	}
	if s.Vault != l.cfg.ID || s.Seq != seq {
		return nil, fmt.Errorf("is segment %d of vault %s: %w", s.Seq, id.Short(s.Vault), vault.ErrDamaged)
	}
	return s, check(s)
}

func (l *Ledger) cacheFile(seq uint64) string {
	return filepath.Join(l.cache, strings.TrimPrefix(segmentName(seq), segmentFolder))
}

// kept returns the cached copy of a segment, nil if there is none.
func (l *Ledger) kept(seq uint64) []byte {
	if l.cache == "" {
		return nil
	}
	f, err := os.Open(l.cacheFile(seq))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(maxSegment)+1))
	if err != nil {
		return nil
	}
	return b
}

// keep puts a copy into the cache. That it could not is nobody's concern: the
// vault has the original. The copy is not synced either; a torn one is noticed.
func (l *Ledger) keep(seq uint64, b []byte) {
	if l.cache == "" || os.MkdirAll(l.cache, 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(l.cache, "part-*")
	if err != nil {
		return
	}
	_, err = f.Write(b)
	if errors.Join(err, f.Close()) != nil || os.Rename(f.Name(), l.cacheFile(seq)) != nil {
		_ = os.Remove(f.Name())
	}
}

// Verify reads the whole ledger and all its checkpoints: every segment in the
// tree, with its body where there are keys, and every checkpoint signed and in
// agreement with the tree. It returns all that is wrong, joined.
func (l *Ledger) Verify(ctx context.Context) error {
	var wrong []error
	roots := map[uint64]mark{0: {}} // size → by segment number
	for s, err := range l.Segments(ctx, 0) {
		if err == nil && l.vault != nil {
			if _, err = s.open(ctx, l.vault); err != nil {
				err = fmt.Errorf("read %s: %w", segmentName(s.Seq), err)
			}
		}
		if err != nil {
			wrong = append(wrong, err)
			break
		}
		roots[s.PrevSize] = mark{s.Seq, s.PrevRoot}
	}
	next, size, root := l.Head()
	roots[size] = mark{next, root}
	for e, err := range l.st.List(ctx, checkpointFolder) {
		if err != nil {
			return err
		}
		n, ok := number(checkpointFolder, e.Name)
		if !ok {
			continue
		}
		c, err := l.readCheckpoint(ctx, n)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if at, ok := roots[n]; len(wrong) == 0 && (!ok || at != mark{c.Seq, c.Root}) && n <= size {
			wrong = append(wrong, fmt.Errorf("%s: %s is not in this ledger: %w", e.Name, c.position(), ErrForked))
		}
	}
	return errors.Join(wrong...)
}
