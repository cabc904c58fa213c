package crashfs

import (
	"io/fs"
	"sync"
	"syscall"

	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Kind is how an operation fails.
type Kind uint8

const (
	// EIO: a read, a write, anything.
	EIO Kind = iota + 1
	// NoSpace: whatever needs room. Half of a write is there.
	NoSpace
	// ShortWrite: a write takes half and says so, without an error of its own.
	ShortWrite
	// SyncError: an fsync of a file or folder. What was not synced is lost; see
	// the package comment.
	SyncError
)

func (k Kind) String() string {
	return [...]string{"", "EIO", "ENOSPC", "short write", "fsync error"}[k]
}

func (k Kind) err() error {
	if k == NoSpace {
		return syscall.ENOSPC
	}
	return syscall.EIO
}

// what an operation is, for the kinds to choose from.
const (
	reads = 1 << iota
	takesRoom
	writes
	syncs
	removes
)

func (k Kind) hits(what int) bool {
	switch k {
	case NoSpace:
		return what&takesRoom != 0
	case ShortWrite:
		return what&writes != 0
	case SyncError:
		return what&syncs != 0
	}
	return true
}

// Faulty is a file system whose operation number At fails, once, or the first after
// it that can fail like that; with Stays, all of those fail from then on, as on a
// full disk. Operations are counted from 1, reads too. The zero At never fails.
type Faulty struct {
	Disk  dir.Renaming
	At    int
	Kind  Kind
	Stays bool

	mu    sync.Mutex
	count int
	hits  int
}

// Operations is how many there were, Hits how many of them failed.
func (f *Faulty) Operations() int { f.mu.Lock(); defer f.mu.Unlock(); return f.count }

// Hits is how many operations were failed.
func (f *Faulty) Hits() int { f.mu.Lock(); defer f.mu.Unlock(); return f.hits }

// Heal ends the failing.
func (f *Faulty) Heal() { f.mu.Lock(); defer f.mu.Unlock(); f.At = 0 }

func (f *Faulty) fails(what int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if f.At == 0 || f.count < f.At || !f.Kind.hits(what) || f.hits > 0 && !f.Stays {
		return false
	}
	f.hits++
	return true
}

func (f *Faulty) broken(op, path string) error { return pathError(op, path, f.Kind.err()) }

// Create is dir.FS's.
func (f *Faulty) Create(name string) (dir.File, error) {
	if f.fails(takesRoom) {
		return nil, f.broken("create", name)
	}
	h, err := f.Disk.Create(name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{f, h, name}, nil
}

// Publish is dir.FS's.
func (f *Faulty) Publish(temp, name string) error {
	if f.fails(takesRoom) {
		return f.broken("publish", name)
	}
	return f.Disk.Publish(temp, name)
}

// Rename is dir.Renaming's.
func (f *Faulty) Rename(from, to string) error {
	if f.fails(takesRoom) {
		return f.broken("rename", to)
	}
	return f.Disk.Rename(from, to)
}

// Remove is dir.FS's.
func (f *Faulty) Remove(name string) error {
	if f.fails(removes) {
		return f.broken("remove", name)
	}
	return f.Disk.Remove(name)
}

// Mkdir is dir.FS's.
func (f *Faulty) Mkdir(name string) error {
	if f.fails(takesRoom) {
		return f.broken("mkdir", name)
	}
	return f.Disk.Mkdir(name)
}

// SyncDir is dir.FS's.
func (f *Faulty) SyncDir(name string) error {
	if f.fails(syncs | takesRoom) {
		return f.broken("fsync", name)
	}
	return f.Disk.SyncDir(name)
}

// ReadDir is dir.FS's.
func (f *Faulty) ReadDir(name string) ([]fs.DirEntry, error) {
	if f.fails(reads) {
		return nil, f.broken("readdir", name)
	}
	return f.Disk.ReadDir(name)
}

// Open is dir.FS's.
func (f *Faulty) Open(name string) (dir.Reader, error) {
	if f.fails(reads) {
		return nil, f.broken("open", name)
	}
	r, err := f.Disk.Open(name)
	if err != nil {
		return nil, err
	}
	return &faultyReader{f, r, name}, nil
}

// Stat is dir.FS's.
func (f *Faulty) Stat(name string) (fs.FileInfo, error) {
	if f.fails(reads) {
		return nil, f.broken("stat", name)
	}
	return f.Disk.Stat(name)
}

type faultyReader struct {
	f *Faulty
	dir.Reader
	name string
}

func (r *faultyReader) ReadAt(p []byte, off int64) (int, error) {
	if r.f.fails(reads) {
		return 0, r.f.broken("read", r.name)
	}
	return r.Reader.ReadAt(p, off)
}

type faultyFile struct {
	f *Faulty
	dir.File
	name string
}

func (h *faultyFile) Write(p []byte) (int, error) {
	if !h.f.fails(writes | takesRoom) {
		return h.File.Write(p)
	}
	n := 0
	if h.f.Kind != EIO && len(p) > 1 {
		var err error
		if n, err = h.File.Write(p[:len(p)/2]); err != nil {
			return n, err
		}
	}
	if h.f.Kind == ShortWrite {
		return n, nil
	}
	return n, h.f.broken("write", h.name)
}

func (h *faultyFile) Sync() error {
	if !h.f.fails(syncs | takesRoom) {
		return h.File.Sync()
	}
	if l, ok := h.File.(interface{ lose() }); ok {
		l.lose()
	}
	return h.f.broken("fsync", h.name)
}
