package patient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"

	"github.com/millrace-backup/millrace/vault/store"
)

// maxCompared is the largest put whose outcome is looked up if it was unclear.
// Segments, checkpoints and heartbeats are far smaller; what is larger is uploaded.
const maxCompared = 64 << 20

// Store is a store whose calls wait for it.
type Store struct {
	store.Store
	p *Patience
}

// Wrap makes a store patient.
func Wrap(st store.Store, p *Patience) *Store { return &Store{Store: st, p: p} }

// PutNew is store.Store's. The body is read anew for each try if it can be; of one
// that cannot, the first failure is the last.
func (s *Store) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	again, ok := body.(io.ReadSeeker)
	if !ok {
		return s.Store.PutNew(ctx, name, size, body)
	}
	start, err := again.Seek(0, io.SeekCurrent)
	if err != nil {
		return s.Store.PutNew(ctx, name, size, body)
	}
	tries := 0
	return s.p.Do(ctx, func() error {
		tries++
		if _, err := again.Seek(start, io.SeekStart); err != nil {
			return err
		}
		err := s.Store.PutNew(ctx, name, size, again)
		if tries > 1 && errors.Is(err, store.ErrExists) && size <= maxCompared {
			if _, err := again.Seek(start, io.SeekStart); err != nil {
				return err
			}
			mine, there := s.ours(ctx, name, size, again)
			if there != nil {
				return there
			}
			if mine {
				return nil // the try before had put it after all, and it is durable now
			}
		}
		return err
	})
}

// ours reports whether an object is the very bytes of body.
func (s *Store) ours(ctx context.Context, name string, size int64, body io.Reader) (bool, error) {
	want := make([]byte, size)
	if _, err := io.ReadFull(body, want); err != nil {
		return false, err
	}
	got, err := store.ReadAll(ctx, s.Store, name, size)
	if errors.Is(err, store.ErrLength) {
		return false, nil
	}
	return bytes.Equal(got, want), err
}

// Get is store.Store's. That there is no such object is asked twice: a store that
// comes back between the question and the check whether it is there would
// otherwise seem to have lost it.
func (s *Store) Get(ctx context.Context, name string, off int64, buf []byte) (n int, err error) {
	err = s.p.Do(ctx, func() error {
		if n, err = s.Store.Get(ctx, name, off, buf); errors.Is(err, store.ErrNotFound) {
			n, err = s.Store.Get(ctx, name, off, buf)
		}
		return err
	})
	return n, err
}

// List is store.Store's.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter is store.Resumer's. A listing that breaks off goes on where it was.
func (s *Store) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		spell, stopped := s.p.Spell(), false
		for {
			var broke error
			for e, err := range store.ListAfter(ctx, s.Store, prefix, after) {
				if err != nil {
					broke = err
					break
				}
				after = e.Name
				if stopped = !yield(e, nil); stopped {
					break
				}
			}
			if broke == nil || stopped {
				spell.Done()
				return
			}
			if err := spell.Wait(ctx, broke); err != nil {
				yield(store.Entry{}, err)
				return
			}
		}
	}
}

// Delete is store.Store's. An object that is gone after a try whose outcome is not
// known was deleted by that.
func (s *Store) Delete(ctx context.Context, name string) error {
	tries := 0
	return s.p.Do(ctx, func() error {
		tries++
		err := s.Store.Delete(ctx, name)
		if tries > 1 && errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
}

// Stat is store.Stater's.
func (s *Store) Stat(ctx context.Context, name string) (e store.Entry, err error) {
	err = s.p.Do(ctx, func() error {
		if e, err = store.Stat(ctx, s.Store, name); errors.Is(err, store.ErrNotFound) {
			e, err = store.Stat(ctx, s.Store, name) // as for Get
		}
		return err
	})
	return e, err
}

// Begin is store.Streamer's. The upload itself is not patient: its bytes are gone
// once they are written. Who makes it begins anew; see Spell.
func (s *Store) Begin(ctx context.Context) (up store.Upload, err error) {
	err = s.p.Do(ctx, func() error {
		up, err = store.Begin(ctx, s.Store)
		return err
	})
	return up, err
}
