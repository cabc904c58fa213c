package tree

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/restore"
)

// folders are those of a tree, below the folder that it is written into. A system call
// that takes a path follows links in it; these go from folder to folder and stop at what
// is a link, even one to another folder of the tree: what belongs to one path would
// replace what is at another.
type folders struct{ root *os.Root }

// empty reports whether nothing is in the uppermost folder.
func (f folders) empty() (bool, error) {
	here, err := f.root.Open(".")
	if err != nil {
		return false, err
	}
	defer here.Close()
	_, err = here.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// open opens a folder by its path in the tree, "." for the uppermost. The caller closes it.
func (f folders) open(folder string) (*os.Root, error) {
	at, err := f.root.OpenRoot(".")
	if err != nil || folder == "." {
		return at, err
	}
	for _, name := range strings.Split(folder, "/") {
		next, err := f.step(at, name)
		_ = at.Close()
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// step opens a folder that is in another.
func (f folders) step(at *os.Root, name string) (*os.Root, error) {
	there, err := at.Lstat(name)
	if err != nil {
		return nil, err
	}
	if there.IsDir() {
		next, err := at.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		if is, err := next.Stat("."); err == nil && os.SameFile(there, is) {
			return next, nil
		} // else it is another one by now
		_ = next.Close()
	}
	return nil, notFolder{filepath.Join(at.Name(), name)}
}

// notFolder is a restore.ErrNotFile: something that is not replaced.
type notFolder struct{ path string }

func (e notFolder) Error() string {
	return e.path + " is no folder, and the tree needs one there: a link or a file"
}

func (notFolder) Is(target error) bool { return target == restore.ErrNotFile }

// make makes a folder, unless it is there. The one that it is in is.
func (f folders) make(folder string) error {
	at, err := f.open(path.Dir(folder))
	if err != nil {
		return err
	}
	defer at.Close()
	if err := at.Mkdir(path.Base(folder), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	made, err := f.step(at, path.Base(folder))
	if err != nil {
		return err
	}
	return made.Close()
}
