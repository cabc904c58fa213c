package dir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// MakeAll makes the folder name and those above it, where they are missing, and
// makes the names of all of them durable: also of those that were there, because
// whoever made them may have died, or not cared, before a sync. A folder above
// that was there and may not be read by this account is left as it is.
func MakeAll(fsys FS, name string) error {
	parent := filepath.Dir(name)
	if parent == name {
		return nil // the root of the file system
	}
	info, err := fsys.Stat(name)
	there := err == nil && info.IsDir()
	if err := MakeAll(fsys, parent); err != nil {
		return err
	}
	if !there {
		// A crash after Mkdir leaves an empty folder, or none.
		if err := fsys.Mkdir(name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := fsys.SyncDir(parent); err != nil && !(there && notOurs(err)) {
		return err
	}
	return nil
}

// notOurs: the folder belongs to the system and is none of our business.
func notOurs(err error) bool {
	_, readOnly := fullOrReadOnly(err)
	return readOnly || errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported)
}

// Replace puts text into the file name, which may be there already, and makes its
// folder if it is missing. It is for small files that are not objects: what a
// machine remembers. After a crash at any time there is the old file or the new
// one, whole; once Replace has returned nil, it is the new one. A process that
// dies leaves at most a file called ".new-*" beside it.
func Replace(fsys Renaming, name string, text []byte) (err error) {
	name, err = filepath.Abs(name)
	if err != nil {
		return err
	}
	folder := filepath.Dir(name)
	if err := MakeAll(fsys, folder); err != nil {
		return sentinel(err)
	}
	var word [8]byte
	_, _ = rand.Read(word[:]) // never fails since Go 1.24
	temp := filepath.Join(folder, fmt.Sprintf(".new-%x", word))
	f, err := fsys.Create(temp)
	if err != nil {
		return sentinel(err)
	}
	n, err := f.Write(text)
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		// Before the rename a crash leaves the old file; after it the old or the
		// new one, and after the sync of the folder the new one.
		err = fsys.Rename(temp, name)
	}
	if err != nil {
		_ = fsys.Remove(temp)
		return sentinel(err)
	}
	return sentinel(fsys.SyncDir(folder))
}
