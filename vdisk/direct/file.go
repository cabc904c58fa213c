package direct

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
)

// File is a file with a second way to write. Its methods may be called as those of
// the wrapped file may.
type File struct {
	// Not embedded: what else an os.File can, such as ReadFrom, goes by a place of
	// its own in the file.
	plain *os.File
	end   int64 // where Write goes on

	once    sync.Once
	past    *os.File    // the same file, opened to go past the cache; nil: there is no such way
	refused atomic.Bool // the file system took the flag and not the write
}

// New wraps an open file; Write begins at its start. Closing the File closes both.
func New(f *os.File) *File { return &File{plain: f} }

// Write writes behind what Write wrote before.
func (f *File) Write(b []byte) (int, error) {
	n, err := f.WriteAt(b, f.end)
	f.end += int64(n)
	return n, err
}

// WriteAt writes b at off.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	if !aligned(b, off) || f.refused.Load() {
		return f.plain.WriteAt(b, off)
	}
	f.once.Do(func() { f.past = reopen(f.plain) })
	if f.past == nil {
		return f.plain.WriteAt(b, off)
	}
	n, err := f.past.WriteAt(b, off)
	if err != nil && errors.Is(err, errUnfit) {
		f.refused.Store(true)
		rest, err := f.plain.WriteAt(b[n:], off+int64(n))
		return n + rest, err
	}
	return n, err
}

// ReadAt reads what was written either way, by way of the cache.
func (f *File) ReadAt(b []byte, off int64) (int, error) { return f.plain.ReadAt(b, off) }

// ReadBack reads as ReadAt does, but past the cache where that is possible: from the disk.
func (f *File) ReadBack(b []byte, off int64) (int, error) {
	if !aligned(b, off) || f.refused.Load() {
		return f.plain.ReadAt(b, off)
	}
	f.once.Do(func() { f.past = reopen(f.plain) })
	if f.past != nil {
		if n, err := f.past.ReadAt(b, off); err == nil {
			return n, nil
		}
	}
	return f.plain.ReadAt(b, off) // which tells what is wrong, if anything is
}

// Sync makes durable what was written either way.
func (f *File) Sync() error { return f.plain.Sync() }

// Truncate sets the file's length.
func (f *File) Truncate(size int64) error { return f.plain.Truncate(size) }

// Close closes the file.
func (f *File) Close() error {
	var err error
	f.once.Do(func() {}) // from here on none is opened
	if f.past != nil {
		err = f.past.Close()
	}
	return errors.Join(err, f.plain.Close())
}
