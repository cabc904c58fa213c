// Package dir keeps a vault's objects as files in a folder.
//
// Call [Open] for a folder that is there, [Create] for one that may have to be
// made. The object "packs/ab/cd" is the file packs/ab/cd; the folder tmp holds
// what is still being written, and [Store.Sweep] removes what a crash left there.
// What else is in the folder, files with names that are no object names, links, pipes, is
// neither listed nor touched nor waited for; [Store.Strays] tells it.
//
// Order and durability: an object is written to a temp file in pieces of 1 MiB
// (whole ones past the page cache: package vdisk/direct), the file is synced, given its name by a rename or link that cannot replace, and
// then the folder is synced, as is the parent of every folder this Store first
// uses. Only then does a put return. Two names are never visible for a torn
// object, because it has none. An existing name is reported (store.ErrExists)
// only after its folder was synced too: the loser of a race may build on the
// winner's object at once.
//
// Concurrency: all methods of Store may be called in parallel, by any number of
// processes; there is no lock file. File systems that can neither rename without
// replacing nor link are refused at the first put.
//
// The package does not encrypt, and it trusts whoever can write to the folder no
// further than the vault does: names and sizes come from the disk, contents are
// checked by the vault.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"sync"

	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vdisk/direct"
	"github.com/millrace-backup/millrace/vdisk/regular"
)

// piece is the size of one write: larger ones cost three times the CPU.
const piece = 1 << 20

// Store is a store.Store, store.Streamer and store.Stater on a folder.
type Store struct {
	root   string
	fs     FS
	pieces sync.Pool // *[]byte of piece bytes

	mu     sync.Mutex      // guards what follows
	known  map[string]bool // folders whose own name we have made durable
	opened fs.FileInfo     // the folder as it was last known to be the store
	mark   string          // see Mark; "" if there is none
	marked []byte
}

var (
	_ store.Store    = (*Store)(nil)
	_ store.Streamer = (*Store)(nil)
	_ store.Stater   = (*Store)(nil)
	_ store.Surveyor = (*Store)(nil)
)

// Open returns the store in the folder root: store.ErrNoStore if there is none.
// It writes nothing.
func Open(root string) (*Store, error) { return OpenOn(OS(), root) }

// OpenOn is Open on another file system.
func OpenOn(fsys FS, root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	s := &Store{root: abs, fs: fsys, known: make(map[string]bool)}
	s.pieces.New = func() any { b := direct.Buffer(piece); return &b }
	info, err := fsys.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open store %s: %w: %w", abs, store.ErrNoStore, err)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", abs, err)
	case !info.IsDir():
		return nil, fmt.Errorf("open store %s: not a folder: %w", abs, store.ErrNoStore)
	}
	s.opened = info
	return s, nil
}

// Create makes the folder root, and its parents, where they are missing, makes
// their names durable, and opens it.
func Create(root string) (*Store, error) { return CreateOn(OS(), root) }

// CreateOn is Create on another file system.
func CreateOn(fsys FS, root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("create store %s: %w", root, err)
	}
	if err := MakeAll(fsys, abs); err != nil {
		return nil, fmt.Errorf("create store %s: %w", abs, sentinel(err))
	}
	return OpenOn(fsys, abs)
}

// Root is the absolute path of the folder.
func (s *Store) Root() string { return s.root }

// sentinel puts the store's word for a system error in front of it.
func sentinel(err error) error {
	full, readOnly := fullOrReadOnly(err)
	switch {
	case full:
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	case readOnly:
		return fmt.Errorf("%w: %w", store.ErrReadOnly, err)
	}
	return err
}

// fault names operation, object and cause, and tells when it is the store that
// is missing: an unmounted disk must not look like anything else.
func (s *Store) fault(op, name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		if gone := s.here(); errors.Is(gone, store.ErrNoStore) {
			return fmt.Errorf("%s %s in %s: %w", op, name, s.root, gone)
		}
	}
	return fmt.Errorf("%s %s in %s: %w", op, name, s.root, sentinel(err))
}

// gone is fault for the reading side, where a file that is not there is an
// object that is not there. So is one below a file: "a/b" when "a" is an object.
func (s *Store) gone(op, name string, err error) error {
	if errors.Is(err, regular.ErrOther) {
		return fmt.Errorf("%s %s in %s: %w: %w", op, name, s.root, store.ErrForeign, err)
	}
	if errors.Is(err, fs.ErrNotExist) || notFolder(err) {
		if full := s.fault(op, name, err); errors.Is(full, store.ErrNoStore) {
			return full
		}
		return fmt.Errorf("%s %s in %s: %w", op, name, s.root, store.ErrNotFound)
	}
	return s.fault(op, name, err)
}

func (s *Store) path(name string) string {
	return filepath.Join(s.root, filepath.FromSlash(name))
}

// PutNew is store.Store's.
func (s *Store) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	if err := store.CheckName(name); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if size < 0 {
		return fmt.Errorf("put %s: %d bytes: %w", name, size, store.ErrLength)
	}
	// Asked first only to spare the writing; the rename below decides.
	if _, err := s.fs.Stat(s.path(name)); err == nil {
		return s.taken(name)
	}
	u, err := s.begin(ctx)
	if err != nil {
		return s.fault("put", name, err)
	}
	defer u.Abort()
	n, err := u.copyFrom(ctx, io.LimitReader(body, size))
	if err == nil && n < size {
		err = fmt.Errorf("body of %d bytes ends after %d: %w", size, n, store.ErrLength)
	}
	if err == nil {
		err = ended(body, size)
	}
	if err != nil {
		return s.fault("put", name, err)
	}
	return u.Commit(ctx, name)
}

// ended checks that body has nothing more to give after size bytes.
func ended(body io.Reader, size int64) error {
	var one [1]byte
	n, err := io.ReadFull(body, one[:])
	if n > 0 {
		return fmt.Errorf("body goes on after %d bytes: %w", size, store.ErrLength)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// taken is the answer to a put whose name exists: the name is made durable
// first, because whoever hears ErrExists relies on the object.
func (s *Store) taken(name string) error {
	path := s.path(name)
	info, err := s.fs.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("put %s in %s: other names lie below it: %w", name, s.root, store.ErrName)
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("put %s: %s is %s, which is not of the vault and in its way: %w", name, path, regular.Kind(info.Mode()), store.ErrName)
	}
	if err := s.folder(filepath.Dir(path)); err != nil {
		return s.fault("put", name, err)
	}
	if err := s.fs.SyncDir(filepath.Dir(path)); err != nil {
		return s.fault("put", name, err)
	}
	return fmt.Errorf("put %s in %s: %w", name, s.root, store.ErrExists)
}

// folder makes a folder below the root, and those above it, and makes sure that
// their names are durable, whoever made them.
func (s *Store) folder(name string) error {
	if name == s.root {
		return nil // never made here: see store.ErrNoStore
	}
	s.mu.Lock()
	known := s.known[name]
	s.mu.Unlock()
	if known {
		return nil
	}
	parent := filepath.Dir(name)
	if err := s.folder(parent); err != nil {
		return err
	}
	if err := s.fs.Mkdir(name); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := s.fs.Stat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is an object, not a folder: %w", strings.TrimPrefix(name, s.root), store.ErrName)
	}
	if err := s.fs.SyncDir(parent); err != nil {
		return err
	}
	s.mu.Lock()
	s.known[name] = true
	s.mu.Unlock()
	return nil
}

// forget drops what is known of folders: someone removed one behind our back.
func (s *Store) forget() {
	s.mu.Lock()
	clear(s.known)
	s.mu.Unlock()
}

// Get is store.Store's.
func (s *Store) Get(ctx context.Context, name string, off int64, buf []byte) (int, error) {
	if err := store.CheckName(name); err != nil {
		return 0, fmt.Errorf("get: %w", err)
	}
	if off < 0 {
		return 0, fmt.Errorf("get %s: offset %d: %w", name, off, store.ErrLength)
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("get %s: %w", name, err)
	}
	if len(buf) == 0 {
		_, err := s.Stat(ctx, name)
		return 0, err
	}
	off = min(off, math.MaxInt64-int64(len(buf))) // past every end all the same
	f, err := s.fs.Open(s.path(name))
	if err != nil {
		return 0, s.gone("get", name, err)
	}
	defer f.Close()
	total := 0
	for total < len(buf) {
		if err := ctx.Err(); err != nil {
			return total, fmt.Errorf("get %s: %w", name, err)
		}
		want := min(len(buf)-total, piece)
		n, err := f.ReadAt(buf[total:total+want], off+int64(total))
		total += n
		if n == want {
			continue
		}
		if err == io.EOF {
			return total, fmt.Errorf("get %s in %s: ends at %d, %d bytes at %d asked for: %w",
				name, s.root, off+int64(total), len(buf), off, io.ErrUnexpectedEOF)
		}
		if info, statErr := s.fs.Stat(s.path(name)); statErr == nil && info.IsDir() {
			return 0, fmt.Errorf("get %s in %s: %w", name, s.root, store.ErrNotFound)
		}
		return total, s.fault("get", name, err)
	}
	return total, nil
}

// Stat is store.Stater's.
func (s *Store) Stat(ctx context.Context, name string) (store.Entry, error) {
	if err := store.CheckName(name); err != nil {
		return store.Entry{}, fmt.Errorf("stat: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return store.Entry{}, fmt.Errorf("stat %s: %w", name, err)
	}
	info, err := s.fs.Stat(s.path(name))
	if err != nil {
		return store.Entry{}, s.gone("stat", name, err)
	}
	if info.IsDir() {
		return store.Entry{}, fmt.Errorf("stat %s in %s: %w", name, s.root, store.ErrNotFound)
	}
	if !info.Mode().IsRegular() {
		return store.Entry{}, fmt.Errorf("stat %s in %s: it is %s: %w", name, s.root, regular.Kind(info.Mode()), store.ErrForeign)
	}
	return store.Entry{Name: name, Size: info.Size()}, nil
}

// Delete is store.Store's. The name is gone for good when it returns, also when it
// was gone before: whoever removed it may have died before the sync. Emptied
// folders stay: another process may be about to write into them.
func (s *Store) Delete(ctx context.Context, name string) error {
	path := s.path(name)
	if _, err := s.Stat(ctx, name); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			err = s.stayGone(name, err)
		}
		return fmt.Errorf("delete: %w", err)
	}
	if err := s.fs.Remove(path); err != nil {
		if err = s.gone("delete", name, err); errors.Is(err, store.ErrNotFound) {
			err = s.stayGone(name, err)
		}
		return err
	}
	if err := s.fs.SyncDir(filepath.Dir(path)); err != nil {
		return s.fault("delete", name, err)
	}
	return nil
}

// stayGone makes it durable that a name is not there; notFound says that it is not.
func (s *Store) stayGone(name string, notFound error) error {
	err := s.fs.SyncDir(filepath.Dir(s.path(name)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !notFolder(err) {
		return s.fault("delete", name, err)
	}
	return notFound
}
