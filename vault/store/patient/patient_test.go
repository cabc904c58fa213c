package patient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vault/store/storetest"
)

var errIO = &os.PathError{Op: "read", Path: "x", Err: syscall.EIO}

// flaky is a store whose next calls fail, before they do anything or after.
type flaky struct {
	*dir.Store
	before, after int
	err           error
}

func (f *flaky) call(op func() error) error {
	if f.before > 0 {
		f.before--
		return f.err
	}
	err := op()
	if f.after > 0 {
		f.after--
		return f.err
	}
	return err
}

func (f *flaky) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	return f.call(func() error { return f.Store.PutNew(ctx, name, size, body) })
}

func (f *flaky) Get(ctx context.Context, name string, off int64, buf []byte) (n int, err error) {
	err = f.call(func() error { n, err = f.Store.Get(ctx, name, off, buf); return err })
	return n, err
}

func (f *flaky) Stat(ctx context.Context, name string) (e store.Entry, err error) {
	err = f.call(func() error { e, err = f.Store.Stat(ctx, name); return err })
	return e, err
}

func (f *flaky) Delete(ctx context.Context, name string) error {
	return f.call(func() error { return f.Store.Delete(ctx, name) })
}

func answers(context.Context) error { return nil }

func newStore(t testing.TB, p *Patience) (*flaky, *Store) {
	t.Helper()
	st, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{Store: st, err: errIO}
	return f, Wrap(f, p)
}

// TestStore: a patient store keeps every promise of a store.
func TestStore(t *testing.T) {
	storetest.Run(t, func(tb testing.TB) store.Store {
		_, st := newStore(tb, &Patience{Probe: answers})
		return st
	})
}

// Each call gets over a fault, whether it had done its work by then or not.
func TestCallsAreMadeAgain(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			f, st := newStore(t, &Patience{Probe: answers})
			fail := func() {
				if when == "before" {
					f.before = 1
				} else {
					f.after = 1
				}
			}
			ctx := t.Context()
			body := strings.NewReader("xxhello")
			if _, err := body.Seek(2, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			fail()
			if err := st.PutNew(ctx, "a/b", 5, body); err != nil {
				t.Errorf("put: %v", err)
			}
			fail()
			if b, err := store.ReadAll(ctx, st, "a/b", 100); err != nil || string(b) != "hello" {
				t.Errorf("get: %q, %v", b, err)
			}
			fail()
			if e, err := st.Stat(ctx, "a/b"); err != nil || e.Size != 5 {
				t.Errorf("stat: %v, %v", e, err)
			}
			if err := st.PutNew(ctx, "a/b", 5, strings.NewReader("hello")); !errors.Is(err, store.ErrExists) {
				t.Errorf("a name that was taken before: %v", err)
			}
			fail()
			if err := st.Delete(ctx, "a/b"); err != nil {
				t.Errorf("delete: %v", err)
			}
			if err := st.Delete(ctx, "a/b"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("delete what is gone: %v", err)
			}
		})
	}
}

// Of a put whose outcome is not known, a name taken by other bytes is not ours.
func TestTheWinnerIsAnother(t *testing.T) {
	f, st := newStore(t, &Patience{Probe: answers})
	f.before = 1
	if err := f.Store.PutNew(t.Context(), "a", 5, strings.NewReader("other")); err != nil {
		t.Fatal(err)
	}
	if err := st.PutNew(t.Context(), "a", 5, strings.NewReader("mine!")); !errors.Is(err, store.ErrExists) {
		t.Errorf("got %v", err)
	}
	// A body that cannot be read again is not put again.
	f.before = 1
	if err := st.PutNew(t.Context(), "b", 1, io.MultiReader(bytes.NewReader([]byte("x")))); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
}

// breaking is a listing that breaks off in the middle.
type breaking struct {
	*dir.Store
	left int
}

func (b *breaking) ListAfter(ctx context.Context, prefix, after string) func(func(store.Entry, error) bool) {
	return func(yield func(store.Entry, error) bool) {
		n := 0
		for e, err := range b.Store.ListAfter(ctx, prefix, after) {
			if n++; n > 2 && b.left > 0 {
				b.left--
				yield(store.Entry{}, errIO)
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func TestAListingGoesOn(t *testing.T) {
	f, _ := newStore(t, nil)
	var want []string
	for n := range 7 {
		name := fmt.Sprintf("p/%d", n)
		want = append(want, name)
		if err := f.Store.PutNew(t.Context(), name, 0, strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
	}
	st := Wrap(&breaking{Store: f.Store, left: 2}, &Patience{Probe: answers})
	var got []string
	for e, err := range st.List(t.Context(), "p/") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v", got)
	}
}

// What is waited for, how long, and what ends it.
func TestBounds(t *testing.T) {
	gone := fmt.Errorf("put: %w", store.ErrNoStore)
	for name, c := range map[string]struct {
		err   error
		probe error
		want  error // nil: tried again
		waits bool
	}{
		"I/O error, the store answers":     {errIO, nil, nil, true},
		"an I/O error that stays":          {errIO, errIO, syscall.EIO, true},
		"away":                             {gone, gone, store.ErrNoStore, true},
		"stale":                            {syscall.ESTALE, syscall.ESTALE, syscall.ESTALE, true},
		"another in its place":             {gone, fmt.Errorf("%w: y", store.ErrOther), store.ErrOther, true},
		"torn off, and seen as read-only":  {errIO, store.ErrReadOnly, store.ErrReadOnly, true},
		"what is there is damaged":         {gone, os.ErrInvalid, os.ErrInvalid, true},
		"full":                             {fmt.Errorf("%w: %w", store.ErrFull, syscall.ENOSPC), nil, store.ErrFull, false},
		"read-only":                        {store.ErrReadOnly, nil, store.ErrReadOnly, false},
		"not found":                        {store.ErrNotFound, nil, store.ErrNotFound, false},
		"the caller's own time was over":   {context.DeadlineExceeded, nil, context.DeadlineExceeded, false},
		"I/O error of a call with no time": {fmt.Errorf("%w: %w", context.Canceled, syscall.EIO), nil, context.Canceled, false},
	} {
		t.Run(name, func(t *testing.T) {
			var told []string
			p := &Patience{
				IO: 300 * time.Millisecond, Gone: 400 * time.Millisecond,
				Probe: func(context.Context) error { return c.probe }, Tell: func(s string) { told = append(told, s) },
			}
			s := p.Spell()
			err := s.Wait(t.Context(), c.err)
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("got %v", err)
			}
			s.Done()
			if (len(told) > 0) != c.waits || c.waits && told[len(told)-1] != "" {
				t.Errorf("told %q", told)
			}
		})
	}
}

// A store that answers and fails again and again is one fault, with one bound.
func TestItFailsAgain(t *testing.T) {
	p := &Patience{IO: 500 * time.Millisecond, Probe: answers}
	tries := 0
	err := p.Do(t.Context(), func() error { tries++; return errIO })
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "waited for 500ms") || tries < 2 || tries > 10 {
		t.Errorf("%d tries, %v", tries, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = (&Patience{Probe: answers}).Do(ctx, func() error { cancel(); return errIO })
	if !errors.Is(err, context.Canceled) || !errors.Is(err, syscall.EIO) {
		t.Errorf("interrupted: %v", err)
	}
	var none *Patience
	if err := none.Do(t.Context(), func() error { return errIO }); !errors.Is(err, syscall.EIO) {
		t.Errorf("without patience: %v", err)
	}
}
