package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
)

// probe is what ReadAll asks for first: nearly all small objects fit.
const probe = 64 << 10

// ReadAll returns the whole object. An object longer than limit bytes is refused
// with ErrLength before memory is taken for it.
func ReadAll(ctx context.Context, st Store, name string, limit int64) ([]byte, error) {
	buf := make([]byte, min(limit, probe-1)+1)
	n, err := st.Get(ctx, name, 0, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return buf[:n], nil
	}
	if err != nil {
		return nil, err
	}
	e, err := Stat(ctx, st, name)
	if err != nil {
		return nil, err
	}
	if e.Size > limit {
		return nil, fmt.Errorf("read %s: %d bytes, at most %d expected: %w", name, e.Size, limit, ErrLength)
	}
	if e.Size < int64(n) { // objects never change: the store lies
		return nil, fmt.Errorf("read %s: %d bytes read of %d: %w", name, n, e.Size, ErrLength)
	}
	all := make([]byte, e.Size)
	copy(all, buf[:n])
	if _, err := st.Get(ctx, name, int64(n), all[n:]); err != nil {
		return nil, err
	}
	return all, nil
}

// Stat returns the object's entry, or ErrNotFound.
func Stat(ctx context.Context, st Store, name string) (Entry, error) {
	if s, ok := st.(Stater); ok {
		return s.Stat(ctx, name)
	}
	if err := CheckName(name); err != nil {
		return Entry{}, fmt.Errorf("stat: %w", err)
	}
	for e, err := range st.List(ctx, name) {
		if err != nil {
			return Entry{}, err
		}
		if e.Name == name {
			return e, nil
		}
		break // name itself would have sorted first
	}
	return Entry{}, fmt.Errorf("stat %s: %w", name, ErrNotFound)
}

// ListAfter is List without the objects up to and with the name after, which need
// not exist. In a store that can begin in the middle those cost little.
func ListAfter(ctx context.Context, st Store, prefix, after string) iter.Seq2[Entry, error] {
	if s, ok := st.(Resumer); ok {
		return s.ListAfter(ctx, prefix, after)
	}
	return func(yield func(Entry, error) bool) {
		for e, err := range st.List(ctx, prefix) {
			if err == nil && e.Name <= after {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// Begin starts an upload. A store that cannot stream gets its object from
// memory at Commit.
func Begin(ctx context.Context, st Store) (Upload, error) {
	if s, ok := st.(Streamer); ok {
		return s.Begin(ctx)
	}
	return &memory{ctx: ctx, st: st}, nil
}

type memory struct {
	ctx  context.Context // of Begin: covers the writes
	st   Store
	buf  bytes.Buffer
	over bool
}

func (m *memory) Write(p []byte) (int, error) {
	if m.over {
		return 0, fmt.Errorf("write: the upload is over: %w", errors.ErrUnsupported)
	}
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	return m.buf.Write(p)
}

func (m *memory) Commit(ctx context.Context, name string) error {
	if m.over {
		return fmt.Errorf("commit %s: the upload is over: %w", name, errors.ErrUnsupported)
	}
	body := bytes.NewReader(m.buf.Bytes())
	defer m.Abort()
	return m.st.PutNew(ctx, name, body.Size(), body)
}

func (m *memory) Abort() { m.over, m.buf = true, bytes.Buffer{} }
