package history

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/millrace-backup/millrace/vault/store"
)

// Memory is a store.Store in memory that counts. It may be used by many goroutines.
type Memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	names   []string // sorted
	counts  Counts
}

// Counts is what was asked of a store: calls, names listed, and bytes read.
type Counts struct{ Gets, Stats, Lists, Listed, Bytes int64 }

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{objects: map[string][]byte{}} }

// Take returns what was counted since the last call.
func (m *Memory) Take() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.counts
	m.counts = Counts{}
	return c
}

// PutNew is store.Store's.
func (m *Memory) PutNew(_ context.Context, name string, size int64, body io.Reader) error {
	if err := store.CheckName(name); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if int64(len(b)) != size {
		return fmt.Errorf("put %s: %w", name, store.ErrLength)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects[name] != nil {
		return fmt.Errorf("put %s: %w", name, store.ErrExists)
	}
	m.objects[name] = b
	at, _ := slices.BinarySearch(m.names, name)
	m.names = slices.Insert(m.names, at, name)
	return nil
}

// Get is store.Store's.
func (m *Memory) Get(_ context.Context, name string, off int64, buf []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts.Gets++
	b := m.objects[name]
	if b == nil {
		return 0, fmt.Errorf("get %s: %w", name, store.ErrNotFound)
	}
	n := copy(buf, b[min(off, int64(len(b))):])
	m.counts.Bytes += int64(n)
	if n < len(buf) {
		return n, fmt.Errorf("get %s: %w", name, io.ErrUnexpectedEOF)
	}
	return n, nil
}

// List is store.Store's.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return m.ListAfter(ctx, prefix, "")
}

// ListAfter is store.Resumer's.
func (m *Memory) ListAfter(_ context.Context, prefix, after string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		m.mu.Lock()
		m.counts.Lists++
		at, _ := slices.BinarySearch(m.names, max(prefix, after))
		var found []store.Entry
		for _, name := range m.names[at:] {
			if !strings.HasPrefix(name, prefix) {
				break
			}
			if name > after {
				found = append(found, store.Entry{Name: name, Size: int64(len(m.objects[name]))})
			}
		}
		m.mu.Unlock()
		for _, e := range found {
			m.mu.Lock()
			m.counts.Listed++
			m.mu.Unlock()
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Delete is store.Store's.
func (m *Memory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects[name] == nil {
		return fmt.Errorf("delete %s: %w", name, store.ErrNotFound)
	}
	delete(m.objects, name)
	at, _ := slices.BinarySearch(m.names, name)
	m.names = slices.Delete(m.names, at, at+1)
	return nil
}

// Stat is store.Stater's.
func (m *Memory) Stat(_ context.Context, name string) (store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts.Stats++
	b := m.objects[name]
	if b == nil {
		return store.Entry{}, fmt.Errorf("stat %s: %w", name, store.ErrNotFound)
	}
	return store.Entry{Name: name, Size: int64(len(b))}, nil
}

// Dump writes every object as a file below folder, where store/dir finds it. It
// does not sync.
func (m *Memory) Dump(folder string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range m.names {
		path := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, m.objects[name], 0o600); err != nil {
			return err
		}
	}
	return nil
}
