package crashfs

import (
	"iter"
	"os"
	"path/filepath"
	"strings"
)

// A File is a file of a disk: its path, length, and the SHA-256 of its bytes. Sum
// reads the file; to compare many disks is cheap all the same, because what the
// crash states of one log have in common is summed once.
type File struct {
	Path string
	file *file
}

// Size is in bytes.
func (f File) Size() int64 { return int64(len(f.file.view())) }

// Sum is the SHA-256 of the bytes.
func (f File) Sum() [32]byte {
	if len(f.file.pending) == 0 && !f.file.lost {
		return f.file.kept.hash()
	}
	return fixed(f.file.view()).hash()
}

// Files lists every file below a folder, in order of their paths. The disk must
// not be changed meanwhile.
func (d *Disk) Files(folder string) iter.Seq[File] {
	return func(yield func(File) bool) {
		if n, err := d.find("list", folder); err == nil {
			walk(filepath.Clean(folder), n, yield, nil)
		}
	}
}

// walk visits files, and folders if it is told to; false ends it.
func walk(path string, n *node, files func(File) bool, folders func(string) bool) bool {
	if n.file != nil {
		return files(File{path, n.file})
	}
	if folders != nil && !folders(path) {
		return false
	}
	for _, name := range sortedNames(n.entries) {
		if at := n.entries[name].now(); at != nil && !walk(filepath.Join(path, name), at, files, folders) {
			return false
		}
	}
	return true
}

// Save writes what is below a folder to a folder of the operating system, made if it
// is missing. What stood there under the same names is overwritten.
func (d *Disk) Save(folder, to string) error {
	n, err := d.find("save", folder)
	if err != nil {
		return os.MkdirAll(to, 0o700) // a power cut took all of it
	}
	folder = filepath.Clean(folder)
	place := func(path string) string { return filepath.Join(to, strings.TrimPrefix(path, folder)) }
	walk(folder, n, func(f File) bool {
		err = os.WriteFile(place(f.Path), f.file.view(), 0o600)
		return err == nil
	}, func(path string) bool {
		err = os.MkdirAll(place(path), 0o700)
		return err == nil
	})
	return err
}

// Load returns a disk that holds, durably, what is in a folder of the operating
// system, under the same absolute path. Only files and folders are taken.
func Load(folder string) (*Disk, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	d := New(folder)
	err = filepath.WalkDir(folder, func(path string, e os.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		at := &entry{}
		switch {
		case e.IsDir():
			at.durable = newFolder()
		case e.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			at.durable = &node{file: &file{kept: fixed(b)}}
		default:
			return nil
		}
		parent, err := d.find("load", filepath.Dir(path))
		if err != nil {
			return err
		}
		parent.entries[e.Name()] = at
		return nil
	})
	return d, err
}
