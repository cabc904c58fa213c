package restore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// reader is what the workers of one call share.
type reader struct {
	v    *vault.Vault
	room *semaphore.Weighted // bytes of readAhead
	kept *kept
	read atomic.Int64 // bytes that came from packs
}

func newReader(v *vault.Vault) *reader {
	return &reader{v: v, room: semaphore.NewWeighted(readAhead), kept: newKept(keepLimit)}
}

// worker reads chunks; it is for one goroutine.
type worker struct {
	r      *reader
	ids    map[id.Domain]*chunk.IDs
	sealed []byte
	plain  []byte
}

func (r *reader) worker() *worker { return &worker{r: r, ids: make(map[id.Domain]*chunk.IDs)} }

// sink takes what a worker reads: use gets each piece with exactly its bytes,
// which are only lent; lost gets the pieces of a chunk that cannot be read. An
// error from either ends the batch.
type sink struct {
	use  func(p piece, b []byte) error
	lost func(ps []piece, err error) error
}

// batch reads every chunk that pieces refer to, once, in the order in which
// packs hold them. It reorders pieces, none of which may be zero.
func (w *worker) batch(ctx context.Context, pieces []piece, s sink) error {
	slices.SortFunc(pieces, func(a, b piece) int {
		return cmp.Or(bytes.Compare(a.job[:], b.job[:]), bytes.Compare(a.pack[:], b.pack[:]), cmp.Compare(a.at, b.at),
			cmp.Compare(a.stored, b.stored), a.chunk.Compare(b.chunk), cmp.Compare(a.offset, b.offset))
	})
	for len(pieces) > 0 {
		n, err := w.fromKept(pieces, s)
		if err != nil {
			return err
		}
		if n == 0 {
			n = w.span(pieces)
			if err := w.readSpan(ctx, pieces[:n], s); err != nil {
				return err
			}
		}
		pieces = pieces[n:]
	}
	return nil
}

// sameChunk counts the pieces at the front that use one chunk.
func sameChunk(pieces []piece) int {
	n := 1
	for n < len(pieces) && pieces[n].place == pieces[0].place {
		n++
	}
	return n
}

// fromKept serves the first chunk from the cache if it is there, and returns how
// many pieces that were.
func (w *worker) fromKept(pieces []piece, s sink) (int, error) {
	plain := w.r.kept.get(pieces[0].chunk)
	if plain == nil {
		return 0, nil
	}
	n := sameChunk(pieces)
	return n, hand(pieces[:n], plain, s)
}

// span counts the pieces at the front whose chunks one read should fetch.
func (w *worker) span(pieces []piece) int {
	first := pieces[0]
	end := first.end()
	for n, p := range pieces {
		switch {
		case p.job != first.job || p.pack != first.pack,
			p.at > end+spanGap,
			p.end() > first.at+spanLimit && n > 0 && p.place != pieces[n-1].place:
			return n
		}
		end = max(end, p.end())
	}
	return len(pieces)
}

// readSpan reads the chunks of these pieces with one request. If that fails they
// are read one by one, to tell those that are lost from their neighbours.
func (w *worker) readSpan(ctx context.Context, pieces []piece, s sink) error {
	from, to, raw := pieces[0].at, int64(0), int64(0)
	for _, p := range pieces {
		to, raw = max(to, p.end()), max(raw, p.raw)
	}
	// What one chunk may need at most fits; see check.
	hold := min(to-from+raw, readAhead)
	if err := w.r.room.Acquire(ctx, hold); err != nil {
		return err
	}
	defer func() {
		w.r.room.Release(hold)
		if cap(w.sealed) > spanLimit+spanLimit/4 || cap(w.plain) > spanLimit/4 {
			w.sealed, w.plain = nil, nil // of a rare giant; not to be kept by each worker
		}
	}()
	name := vault.PackName(pieces[0].job, pieces[0].pack)
	w.sealed = slices.Grow(w.sealed[:0], int(to-from))[:to-from]
	_, err := w.r.v.Store.Get(ctx, name, from, w.sealed)
	if err != nil {
		if stops(ctx, err) {
			return fmt.Errorf("read pack: %w", err)
		}
		if n := sameChunk(pieces); n < len(pieces) {
			return w.oneByOne(ctx, pieces, hold, s)
		}
		return s.lost(pieces, unreadable(name, to, err))
	}
	w.r.read.Add(to - from)
	for len(pieces) > 0 {
		n := sameChunk(pieces)
		p := pieces[0]
		if err := w.decode(p, w.sealed[p.at-from:p.end()-from]); err != nil {
			if stops(ctx, err) {
				return err
			}
			err = s.lost(pieces[:n], fmt.Errorf("%s at %d: %w", name, p.at, err))
			if err != nil {
				return err
			}
		} else if err := hand(pieces[:n], w.plain, s); err != nil {
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

// oneByOne is readSpan for each chunk by itself. It gives back what its caller
// holds of the room meanwhile: waiting for more while holding some could block
// all workers for ever.
func (w *worker) oneByOne(ctx context.Context, pieces []piece, hold int64, s sink) error {
	w.r.room.Release(hold)
	var failed error
	for len(pieces) > 0 && failed == nil {
		n := sameChunk(pieces)
		failed = w.readSpan(ctx, pieces[:n], s)
		pieces = pieces[n:]
	}
	// Never refused: the caller's release needs its counterpart.
	_ = w.r.room.Acquire(context.WithoutCancel(ctx), hold)
	return failed
}

// decode leaves the chunk's bytes in w.plain, proven to be the chunk's.
func (w *worker) decode(p piece, sealed []byte) error {
	ids := w.ids[p.domain]
	if ids == nil {
		key, err := w.r.v.Keys.IDKey(p.domain)
		if err != nil {
			return err
		}
		ids = chunk.NewIDs(key)
		w.ids[p.domain] = ids
	}
	w.plain = slices.Grow(w.plain[:0], int(p.raw))
	plain, err := w.r.v.Keys.Decode(p.domain, p.chunk, sealed, w.plain[:0], ids)
	if err != nil {
		return err
	}
	w.plain = plain
	if int64(len(plain)) != p.raw {
		return damaged("chunk "+p.chunk.String(), "it has %d bytes, its table says %d", len(plain), p.raw)
	}
	w.r.kept.offer(p.chunk, plain)
	return nil
}

// hand gives each piece its part of the chunk.
func hand(pieces []piece, plain []byte, s sink) error {
	for i, p := range pieces {
		if p.chunkOffset+p.length > int64(len(plain)) {
			err := damaged("chunk "+p.chunk.String(), "it has %d bytes, a table wants those to %d", len(plain), p.chunkOffset+p.length)
			if err := s.lost(pieces[i:i+1], err); err != nil {
				return err
			}
			continue
		}
		if err := s.use(p, plain[p.chunkOffset:p.chunkOffset+p.length]); err != nil {
			return err
		}
	}
	return nil
}

// stops reports whether an error is about the whole call and not about one
// object: going on would blame every chunk.
func stops(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, store.ErrNoStore) || errors.Is(err, store.ErrReadOnly) || errors.Is(err, vault.ErrNoPart)
}

// unreadable is why a chunk cannot be had from a pack: the vault promised it, so
// whatever the reason, it is damage.
func unreadable(pack string, end int64, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%s: %w", pack, errMissing)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return damaged(pack, "the pack ends before byte %d", end)
	}
	return asDamage(err)
}
