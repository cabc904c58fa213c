package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/millrace-backup/millrace/vault/store"
)

// maxMark bounds what Mark remembers.
const maxMark = 1 << 20

// Mark tells the store apart from a folder that comes to be in its place, such as
// the empty one below a disk that was unmounted: the object name, whose bytes are
// read now and no other store has, must be there then. Without a mark only
// the folder that was opened is the store; with one, a disk that was plugged out
// and in again, which the system may know as another one, is the store too.
func (s *Store) Mark(ctx context.Context, name string) error {
	b, err := store.ReadAll(ctx, s, name, maxMark)
	if err != nil {
		return fmt.Errorf("mark store: %w", err)
	}
	s.mu.Lock()
	s.mark, s.marked = name, b
	s.mu.Unlock()
	return s.here()
}

// here says whether the folder at the store's path is the store: store.ErrNoStore
// if there is none or another one. It is asked before a temp file is made and
// again before it gets its name: between the two, and after them, the temp and its
// name are on one disk or the publishing fails. So no object ever lands on the
// disk below a mount point.
func (s *Store) here() error {
	info, err := s.fs.Stat(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return store.ErrNoStore
	}
	if err != nil {
		return sentinel(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A file system that cannot tell two files apart is one of a test.
	if os.SameFile(s.opened, info) || !os.SameFile(s.opened, s.opened) {
		return nil
	}
	if s.mark != "" && s.hasMark() {
		s.opened = info
		clear(s.known)
		return nil
	}
	return fmt.Errorf("another folder is where it was, as when a disk is not mounted: %w", store.ErrNoStore)
}

// hasMark reports whether the mark is at the store's path, byte for byte.
func (s *Store) hasMark() bool {
	f, err := s.fs.Open(s.path(s.mark))
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, len(s.marked)+1)
	n, _ := f.ReadAt(b, 0) // the end comes one byte early
	return n == len(s.marked) && bytes.Equal(b[:n], s.marked)
}
