package dir

import (
	"io"
	"io/fs"
	"os"

	"github.com/millrace-backup/millrace/vdisk/direct"
	"github.com/millrace-backup/millrace/vdisk/regular"
)

// FS is every effect a [Store] has on a disk, and every look it takes at one.
// [OS] is the real one; a test puts a file system below that counts effects,
// fails them, or loses what was not synced. Names are absolute paths of the
// operating system. All methods may be called in parallel.
type FS interface {
	Writing
	Folders
	Reading
}

// Writing makes and removes files.
type Writing interface {
	// Create makes a new, empty file; fs.ErrExist if the name is taken.
	Create(name string) (File, error)
	// Publish gives the file temp the name name, in one step, and never in place
	// of something else: fs.ErrExist if name is taken. Temp is gone afterwards,
	// or at worst a second name of the same file.
	Publish(temp, name string) error
	// Remove removes one file.
	Remove(name string) error
}

// Folders makes and lists folders.
type Folders interface {
	// Mkdir makes one folder; fs.ErrExist if the name is taken.
	Mkdir(name string) error
	// SyncDir makes the names in a folder durable, as far as the system can.
	SyncDir(name string) error
	// ReadDir lists a folder in any order.
	ReadDir(name string) ([]fs.DirEntry, error)
}

// Reading looks at files. Open neither waits for the other end of a pipe nor opens
// anything but files and folders: regular.ErrOther.
type Reading interface {
	Open(name string) (Reader, error)
	Stat(name string) (fs.FileInfo, error)
}

// Renaming is an FS that can also put a file in the place of another, in one step.
// A [Store] is never given it: nothing in a vault is replaced. [Replace] needs it.
type Renaming interface {
	FS
	// Rename gives the file from the name to, whatever file had it before.
	Rename(from, to string) error
}

// File is a file being written. Sync makes its bytes durable, not its name.
type File interface {
	io.WriteCloser
	Sync() error
}

// Reader is a file being read; ReadAt may be called in parallel.
type Reader interface {
	io.ReaderAt
	io.Closer
}

// OS is the operating system's file system.
func OS() Renaming { return osFS{} }

type osFS struct{}

func (osFS) Create(name string) (File, error) {
	// 0o600 less what the mask says: what is in a vault is nobody else's business
	// until its owner says so on the folder.
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return direct.New(f), nil
}

func (osFS) Publish(temp, name string) error { return publish(temp, name) }

func (osFS) Rename(from, to string) error { return replace(from, to) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) Mkdir(name string) error { return os.Mkdir(name, 0o700) }

func (osFS) SyncDir(name string) error { return syncDir(name) }

func (osFS) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := regular.Open(name) // a pipe that is there since does not make it wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1) // os.ReadDir would sort, and the store sorts in its own order
}

func (osFS) Open(name string) (Reader, error) {
	f, err := regular.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osFS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }
