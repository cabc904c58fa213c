package vault

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/kdf"
	"github.com/millrace-backup/millrace/vault/store"
)

// memory is a store that tests can look into, damage, and let die: after left
// more changes every change fails, as for a process that was killed.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	left    int // negative: never dies
	order   []string
}

func newMemory() *memory { return &memory{objects: map[string][]byte{}, left: -1} }

var errDied = fmt.Errorf("the store has died")

func (m *memory) PutNew(_ context.Context, name string, size int64, body io.Reader) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if err := store.CheckName(name); err != nil || int64(len(b)) != size {
		return fmt.Errorf("put %s: %d bytes of %d: %v", name, len(b), size, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == 0 {
		return errDied
	}
	if m.objects[name] != nil {
		return fmt.Errorf("put %s: %w", name, store.ErrExists)
	}
	m.left--
	m.objects[name] = b
	m.order = append(m.order, name)
	return nil
}

func (m *memory) Get(_ context.Context, name string, off int64, buf []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.objects[name]
	if !ok {
		return 0, fmt.Errorf("get %s: %w", name, store.ErrNotFound)
	}
	n := copy(buf, b[min(off, int64(len(b))):])
	if n < len(buf) {
		return n, fmt.Errorf("get %s: %w", name, io.ErrUnexpectedEOF)
	}
	return n, nil
}

func (m *memory) List(_ context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		for _, name := range m.names(prefix) {
			if !yield(store.Entry{Name: name, Size: int64(len(m.objects[name]))}, nil) {
				return
			}
		}
	}
}

func (m *memory) names(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Sorted(maps.Keys(m.objects))
	return slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, prefix) })
}

func (m *memory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects[name] == nil {
		return store.ErrNotFound
	}
	delete(m.objects, name)
	return nil
}

func (m *memory) clone() *memory {
	c := newMemory()
	for name, b := range m.objects {
		c.objects[name] = bytes.Clone(b)
	}
	return c
}

// quick is the cheapest hardening a reader accepts; tests make many vaults.
func quick() KDF { return KDF{Name: kdf.Password, Time: 1, MemoryKiB: kdf.MinMemoryKiB, Threads: 1} }

func noon() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

const password = "correct horse battery staple"

func newVault(t testing.TB, st store.Store) (*Vault, string) {
	t.Helper()
	v, recovery, err := Create(t.Context(), st, []byte(password), CreateOptions{KDF: quick(), Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	return v, recovery
}

func newIDs(t testing.TB, v *Vault) *chunk.IDs {
	t.Helper()
	key, err := v.Keys.IDKey(v.Config.DefaultDomain)
	if err != nil {
		t.Fatal(err)
	}
	return chunk.NewIDs(key)
}

// keyOf returns the name of v's key object of that kind.
func keyOf(t testing.TB, v *Vault, kind string) string {
	t.Helper()
	for k, err := range ReadKeys(t.Context(), v.Store, v.Config) {
		if err != nil {
			t.Fatal(err)
		}
		if k.Kind == kind {
			return KeyName(k.ID)
		}
	}
	t.Fatalf("no key of kind %s", kind)
	return ""
}

var testJob = id.Job{1, 15: 2}
