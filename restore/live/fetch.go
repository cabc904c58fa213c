package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

const (
	// spanGap is how many bytes between two chunks of a pack are read along rather than
	// asking twice; each is a byte fetched for nothing.
	spanGap = 8 << 10
	// spanLimit ends a request, so that several processors decode what a large read wants.
	spanLimit = 384 << 10
	// rawLimit does so where chunks have shrunk to nearly nothing.
	rawLimit = 4 << 20
	// leastRoom is what a fetch of the largest chunk takes, sealed and plain.
	leastRoom = 2*vault.MaxChunk + vault.Overhead + 64
)

// missing is a chunk that this reader has to fetch.
type missing struct {
	table.MapPiece
	entry *entry
}

// check holds what a table says of a chunk to what a pack can have.
func check(p table.MapPiece) error {
	at, stored, raw := int64(p.PackOffset), int64(p.Stored), int64(p.Raw)
	if raw <= 0 || raw > vault.MaxChunk || p.ChunkOffset < 0 || p.ChunkOffset > raw-p.Length ||
		stored <= 0 || stored > vault.MaxChunk+vault.Overhead+16 || at+stored > vault.MaxPack {
		return fmt.Errorf("map of the disk at %d: %d bytes from %d of a chunk of %d, %d bytes at %d of a pack: %w", p.Offset, p.Length, p.ChunkOffset, raw, stored, at, vault.ErrDamaged)
	}
	return nil
}

// fetch brings in what is missing and settles each entry, whatever happens. It returns when
// all is settled.
func (m *Image) fetch(ctx context.Context, want []missing) {
	slices.SortFunc(want, func(a, b missing) int {
		return cmp.Or(slices.Compare(a.Pack.Job[:], b.Pack.Job[:]), slices.Compare(a.Pack.Name[:], b.Pack.Name[:]), cmp.Compare(a.PackOffset, b.PackOffset))
	})
	var others sync.WaitGroup
	for len(want) > 0 {
		n := span(want)
		part := want[:n]
		if want = want[n:]; len(want) == 0 {
			m.fetchSpan(ctx, part) // the last, or only one, needs no goroutine
			break
		}
		others.Go(func() { m.fetchSpan(ctx, part) })
	}
	others.Wait()
}

// span counts the chunks at the front that one request should fetch.
func span(want []missing) int {
	first := want[0]
	end, raw := int64(first.PackOffset)+int64(first.Stored), int64(first.Raw)
	for n, w := range want[1:] {
		at := int64(w.PackOffset)
		raw += int64(w.Raw)
		if raw > rawLimit || w.Pack != first.Pack || at < end || at > end+spanGap || at+int64(w.Stored) > int64(first.PackOffset)+spanLimit {
			return n + 1
		}
		end = at + int64(w.Stored)
	}
	return len(want)
}

func (m *Image) fetchSpan(ctx context.Context, want []missing) {
	from := int64(want[0].PackOffset)
	last := want[len(want)-1]
	size := int64(last.PackOffset) + int64(last.Stored) - from
	hold := size
	for _, w := range want {
		hold += int64(w.Raw)
	}
	fail := func(err error) {
		for _, w := range want {
			m.cache.settle(w.entry, nil, err)
		}
	}
	if err := m.cache.room.Acquire(ctx, hold); err != nil {
		fail(err)
		return
	}
	defer m.cache.room.Release(hold)
	name := vault.PackName(want[0].Pack.Job, want[0].Pack.Name)
	t := m.tools()
	defer m.spare.Put(t)
	sealed := slices.Grow(t.sealed[:0], int(size))[:size]
	t.sealed = sealed
	if _, err := m.v.Store.Get(ctx, name, from, sealed); err != nil {
		if len(want) > 1 && !away(ctx, err) { // one of them is lost; not its neighbours for that
			m.cache.room.Release(hold)
			for n := range want {
				m.fetchSpan(ctx, want[n:n+1])
			}
			_ = m.cache.room.Acquire(context.WithoutCancel(ctx), hold)
			return
		}
		fail(unreadable(name, from+size, err))
		return
	}
	m.cache.fetched.Add(size)
	for _, w := range want {
		at := int64(w.PackOffset) - from
		plain, err := m.decode(t, w.MapPiece, sealed[at:at+int64(w.Stored)])
		if err != nil {
			err = fmt.Errorf("%s at %d: %w", name, w.PackOffset, err)
		}
		m.cache.settle(w.entry, plain, err)
	}
}

// tools are what one goroutine needs to decode.
type tools struct {
	ids    map[id.Domain]*chunk.IDs
	sealed []byte
}

func (m *Image) tools() *tools {
	if t, ok := m.spare.Get().(*tools); ok {
		return t
	}
	return &tools{ids: make(map[id.Domain]*chunk.IDs)}
}

func (m *Image) decode(t *tools, p table.MapPiece, sealed []byte) ([]byte, error) {
	ids := t.ids[p.Domain]
	if ids == nil {
		key, err := m.v.Keys.IDKey(p.Domain)
		if err != nil {
			return nil, err
		}
		ids = chunk.NewIDs(key)
		t.ids[p.Domain] = ids
	}
	plain, err := m.v.Keys.Decode(p.Domain, p.Chunk, sealed, make([]byte, 0, p.Raw), ids)
	if err == nil && len(plain) != int(p.Raw) {
		err = fmt.Errorf("chunk %s: it has %d bytes, its table says %d: %w", p.Chunk, len(plain), p.Raw, vault.ErrDamaged)
	}
	return plain, err
}

// away reports whether an error is about the store and not about one object.
func away(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, store.ErrNoStore) || errors.Is(err, store.ErrOther)
}

// unreadable is why a pack that the point needs cannot be read to an end.
func unreadable(pack string, end int64, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%s is missing: %w", pack, vault.ErrDamaged)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s ends before byte %d: %w", pack, end, vault.ErrDamaged)
	}
	return fmt.Errorf("read %s: %w", pack, err)
}
