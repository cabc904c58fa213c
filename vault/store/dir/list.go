package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vdisk/regular"
)

// List is store.Store's.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter is store.Resumer's: names up to after are read from their folder, which
// is cheap, and not looked at one by one, which is not.
func (s *Store) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if err := s.here(); err != nil {
			yield(store.Entry{}, s.fault("list", prefix, err))
			return
		}
		w := walk{s: s, ctx: ctx, prefix: prefix, after: after, yield: yield}
		if !w.folder("") {
			return
		}
		// Of a disk that went away meanwhile the list is short without an error.
		if err := s.here(); err != nil {
			yield(store.Entry{}, s.fault("list", prefix, err))
		}
	}
}

type walk struct {
	s      *Store
	ctx    context.Context
	prefix string
	after  string
	yield  func(store.Entry, error) bool
}

// folder lists what lies below base, which is "" or ends with '/'. It returns
// false when the listing is over.
func (w *walk) folder(base string) bool {
	if err := w.ctx.Err(); err != nil {
		w.yield(store.Entry{}, fmt.Errorf("list %s in %s: %w", w.prefix, w.s.root, err))
		return false
	}
	entries, err := w.s.fs.ReadDir(w.s.path(base))
	if err != nil {
		if base != "" && errors.Is(err, fs.ErrNotExist) {
			return true // removed since its parent was read
		}
		w.yield(store.Entry{}, w.s.fault("list", w.prefix, err))
		return false
	}
	// A folder sorts as its name with the '/': "a-b" comes before "a/b", because
	// '-' comes before '/'.
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		name := base + e.Name()
		switch {
		case store.CheckName(name) != nil:
			continue // tmp, and files that are not ours
		case e.IsDir():
			name += "/"
			if !strings.HasPrefix(name, w.prefix) && !strings.HasPrefix(w.prefix, name) {
				continue
			}
			if name < w.after && !strings.HasPrefix(w.after, name) {
				continue // and so is all that is in it
			}
		case name <= w.after:
			continue
		case !e.Type().IsRegular() || !strings.HasPrefix(name, w.prefix):
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			if !w.folder(name) {
				return false
			}
		} else if !w.file(name) {
			return false
		}
	}
	return true
}

func (w *walk) file(name string) bool {
	info, err := w.s.fs.Stat(w.s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return true // deleted since its folder was read
	}
	if err != nil {
		w.yield(store.Entry{}, w.s.fault("list", name, err))
		return false
	}
	return w.yield(store.Entry{Name: name, Size: info.Size()}, nil)
}

// Strays is store.Surveyor's.
func (s *Store) Strays(ctx context.Context) iter.Seq2[store.Stray, error] {
	return func(yield func(store.Stray, error) bool) {
		folders := []string{""}
		for len(folders) > 0 {
			base := folders[len(folders)-1]
			folders = folders[:len(folders)-1]
			if err := ctx.Err(); err != nil {
				yield(store.Stray{}, fmt.Errorf("look for strays in %s: %w", s.root, err))
				return
			}
			entries, err := s.fs.ReadDir(s.path(base))
			if base != "" && errors.Is(err, fs.ErrNotExist) {
				continue // removed since its parent was read
			}
			if err != nil {
				yield(store.Stray{}, s.fault("look for strays in", base, err))
				return
			}
			for _, e := range entries {
				name := base + e.Name()
				switch {
				case name == store.Reserved && e.IsDir():
				case store.CheckName(name) == nil && e.IsDir():
					folders = append(folders, name+"/")
				case store.CheckName(name) == nil && e.Type().IsRegular():
				default:
					if !yield(store.Stray{Name: name, What: regular.Kind(e.Type())}, nil) {
						return
					}
				}
			}
		}
	}
}

// Sweep removes temp files last written to before the given time and returns how
// many they were and their bytes. What a live upload writes is younger than any
// sensible age (a day); should one be swept all the same, its Commit fails and
// nothing else happens.
func (s *Store) Sweep(ctx context.Context, before time.Time) (count int, bytes int64, err error) {
	folder := filepath.Join(s.root, store.Reserved)
	entries, err := s.fs.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, s.fault("sweep", store.Reserved, err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return count, bytes, fmt.Errorf("sweep %s: %w", folder, err)
		}
		path := filepath.Join(folder, e.Name())
		info, err := s.fs.Stat(path)
		if err != nil || !info.Mode().IsRegular() || !info.ModTime().Before(before) {
			continue
		}
		if err := s.fs.Remove(path); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return count, bytes, s.fault("sweep", path, err)
		}
		count, bytes = count+1, bytes+info.Size()
	}
	return count, bytes, nil
}
