package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/storetest"
)

// plain is the least a Store can be: a map. It has neither Begin nor Stat, so the
// suite runs over the fallbacks of package store.
type plain struct {
	mu  sync.Mutex
	all map[string][]byte
}

func (p *plain) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	if err := errors.Join(ctx.Err(), store.CheckName(name)); err != nil {
		return err
	}
	b, err := io.ReadAll(body)
	if err := errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	if int64(len(b)) != size {
		return store.ErrLength
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for other := range p.all {
		if strings.HasPrefix(other, name+"/") || strings.HasPrefix(name, other+"/") {
			return store.ErrName
		}
	}
	if _, there := p.all[name]; there {
		return store.ErrExists
	}
	p.all[name] = b
	return nil
}

func (p *plain) Get(ctx context.Context, name string, off int64, buf []byte) (int, error) {
	if err := errors.Join(ctx.Err(), store.CheckName(name)); err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, there := p.all[name]
	if !there {
		return 0, store.ErrNotFound
	}
	if off < 0 {
		return 0, store.ErrLength
	}
	n := copy(buf, b[min(off, int64(len(b))):])
	if n < len(buf) {
		return n, fmt.Errorf("get %s: %w", name, io.ErrUnexpectedEOF)
	}
	return n, nil
}

func (p *plain) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		p.mu.Lock()
		all := maps.Clone(p.all)
		p.mu.Unlock()
		if err := ctx.Err(); err != nil {
			yield(store.Entry{}, err)
			return
		}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if strings.HasPrefix(name, prefix) && !yield(store.Entry{Name: name, Size: int64(len(all[name]))}, nil) {
				return
			}
		}
	}
}

func (p *plain) Delete(ctx context.Context, name string) error {
	if err := errors.Join(ctx.Err(), store.CheckName(name)); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.all[name]; !there {
		return store.ErrNotFound
	}
	delete(p.all, name)
	return nil
}

func TestFallbacks(t *testing.T) {
	storetest.Run(t, func(testing.TB) store.Store { return &plain{all: map[string][]byte{}} })
}

func TestBodyIsNotReadPastItsPromise(t *testing.T) {
	// The suite's own fake must not be more forgiving than a disk.
	p := &plain{all: map[string][]byte{}}
	if err := p.PutNew(t.Context(), "a", 1, bytes.NewReader([]byte("xy"))); !errors.Is(err, store.ErrLength) {
		t.Errorf("want ErrLength, got %v", err)
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"vault", "packs/00/ab", "a//b", "../x", "tmp/a", "a.", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if err := store.CheckName(name); err != nil {
			if !errors.Is(err, store.ErrName) {
				t.Fatalf("%q: %v is no ErrName", name, err)
			}
			return
		}
		for element := range strings.SplitSeq(name, "/") {
			if element == "" || element[0] == '.' || strings.Trim(element, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
				t.Fatalf("%q was taken as a name", name)
			}
		}
	})
}
