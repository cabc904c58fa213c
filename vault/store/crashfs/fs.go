package crashfs

import (
	"bytes"
	"io"
	"io/fs"
	"slices"
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/vault/store/dir"
)

var _ dir.Renaming = (*Disk)(nil)

// do makes an effect and enters it in the log.
func (d *Disk) do(e Effect) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.apply(e)
	if err == nil {
		d.log = append(d.log, e)
	}
	return err
}

// Note enters into the log what the outside was told.
func (d *Disk) Note(text string) { _ = d.do(Effect{Op: OpNote, Data: []byte(text)}) }

// Log returns the effects made so far through the methods of dir.FS, and the notes.
func (d *Disk) Log() []Effect {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

// Create is dir.FS's.
func (d *Disk) Create(name string) (dir.File, error) {
	d.mu.Lock()
	d.next++
	n := d.next
	d.mu.Unlock()
	if err := d.do(Effect{Op: OpCreate, Path: name, File: n}); err != nil {
		return nil, err
	}
	return &handle{d: d, file: n}, nil
}

// Publish is dir.FS's.
func (d *Disk) Publish(temp, name string) error {
	return d.do(Effect{Op: OpPublish, Path: temp, To: name})
}

// Rename is dir.Renaming's.
func (d *Disk) Rename(from, to string) error {
	return d.do(Effect{Op: OpRename, Path: from, To: to})
}

// Remove is dir.FS's.
func (d *Disk) Remove(name string) error { return d.do(Effect{Op: OpRemove, Path: name}) }

// Mkdir is dir.FS's.
func (d *Disk) Mkdir(name string) error { return d.do(Effect{Op: OpMkdir, Path: name}) }

// SyncDir is dir.FS's.
func (d *Disk) SyncDir(name string) error { return d.do(Effect{Op: OpSyncDir, Path: name}) }

// handle is a file being written from its start on.
type handle struct {
	d    *Disk
	file int
	at   int64
	over bool
}

func (h *handle) Write(p []byte) (int, error) {
	if h.over {
		return 0, fs.ErrClosed
	}
	if err := h.d.do(Effect{Op: OpWrite, File: h.file, Off: h.at, Data: bytes.Clone(p)}); err != nil {
		return 0, err
	}
	h.at += int64(len(p))
	return len(p), nil
}

func (h *handle) Sync() error {
	if h.over {
		return fs.ErrClosed
	}
	return h.d.do(Effect{Op: OpSync, File: h.file})
}

func (h *handle) Close() error {
	if h.over {
		return fs.ErrClosed
	}
	h.over = true
	return nil
}

// lose is how Faulty says that a sync failed.
func (h *handle) lose() { h.d.Lose(h.file) }

// reader is a file as it was when it was opened: files are written once here.
type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

// Open is dir.FS's.
func (d *Disk) Open(name string) (dir.Reader, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find("open", name)
	if err != nil {
		return nil, err
	}
	if n.file == nil {
		return noFile{}, nil // a folder can be opened, and not read
	}
	b := n.file.view()
	n.file.owned = false // whoever writes on copies first
	return reader{bytes.NewReader(b)}, nil
}

type noFile struct{}

func (noFile) ReadAt([]byte, int64) (int, error) { return 0, syscall.EISDIR }
func (noFile) Close() error                      { return nil }

// ReadFile returns the bytes of a file, which must not be changed.
func (d *Disk) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find("read", name)
	if err != nil {
		return nil, err
	}
	if n.file == nil {
		return nil, pathError("read", name, syscall.EISDIR)
	}
	n.file.owned = false
	return slices.Clip(n.file.view()), nil
}

// Stat is dir.FS's.
func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find("stat", name)
	if err != nil {
		return nil, err
	}
	elements := split(name)
	return infoOf(elements[len(elements)-1:], n), nil
}

func infoOf(name []string, n *node) info {
	i := info{mode: 0o700 | fs.ModeDir}
	if len(name) > 0 {
		i.name = name[0]
	}
	if n.file != nil {
		i.mode, i.size = 0o600, int64(len(n.file.view()))
	}
	return i
}

// ReadDir is dir.FS's.
func (d *Disk) ReadDir(name string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if n.file != nil {
		return nil, pathError("readdir", name, syscall.ENOTDIR)
	}
	var out []fs.DirEntry
	for at, e := range n.entries {
		if e.now() != nil {
			out = append(out, fs.FileInfoToDirEntry(infoOf([]string{at}, e.now())))
		}
	}
	return out, nil
}

// info has no times: every file is from the beginning of time.
type info struct {
	name string
	mode fs.FileMode
	size int64
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

var _ io.ReaderAt = reader{}
