package crashfs

import (
	"crypto/sha256"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Disk is a file system in memory that knows what of it is durable. Its methods
// may be called in parallel. See [New].
type Disk struct {
	mu    sync.Mutex
	root  *node
	files map[int]*file // by Effect.File
	next  int           // the last File given out
	seq   uint64        // of the last change of a name
	log   []Effect      // made through the methods of dir.FS
}

// node is a folder or a file.
type node struct {
	entries map[string]*entry // of a folder; nil for a file
	file    *file
}

// entry is a name in a folder: what it means on the medium, and the changes since.
type entry struct {
	durable *node // nil: no such name
	seq     uint64
	changes []change
}

type change struct {
	node *node // nil: removed
	seq  uint64
	// with is where a renamed file went: it does not leave its old name before
	// it has the new one.
	with    *entry
	withSeq uint64
}

func (e *entry) now() *node {
	if n := len(e.changes); n > 0 {
		return e.changes[n-1].node
	}
	return e.durable
}

// settle makes the changes up to number seq durable, and what they depend on.
func (e *entry) settle(seq uint64) {
	for len(e.changes) > 0 && e.changes[0].seq <= seq {
		c := e.changes[0]
		e.durable, e.seq, e.changes = c.node, c.seq, e.changes[1:]
		if c.with != nil {
			c.with.settle(c.withSeq)
		}
	}
}

// file is the bytes of a file.
type file struct {
	kept    *content // on the medium
	now     []byte   // as the processes see it; see view
	loaded  bool     // now is filled in
	owned   bool     // now may be changed in place
	pending []edit   // since the last sync
	lost    bool     // a sync failed: now and kept have parted for good
}

type edit struct {
	off  int64
	data []byte
	cut  bool // off is the new length
}

// content is bytes that nobody changes. They are computed when first asked for.
type content struct {
	make  func() []byte
	once  sync.Once
	bytes []byte
	sums  sync.Once
	sum   [32]byte
}

func fixed(b []byte) *content { return &content{bytes: b[:len(b):len(b)]} }

func (c *content) get() []byte {
	c.once.Do(func() {
		if c.make != nil {
			b := c.make()
			c.bytes, c.make = b[:len(b):len(b)], nil
		}
	})
	return c.bytes
}

func (c *content) hash() [32]byte {
	c.sums.Do(func() { c.sum = sha256.Sum256(c.get()) })
	return c.sum
}

func newFile() *file { return &file{kept: fixed(nil), loaded: true} }

func (f *file) view() []byte {
	if !f.loaded {
		f.now, f.loaded = f.kept.get(), true
	}
	return f.now
}

// edit changes what the processes see.
func (f *file) edit(e edit) {
	f.now = e.on(f.view(), f.owned)
	f.owned = true
	f.pending = append(f.pending, e)
}

// on returns b with the edit made; b itself is changed only if it is owned.
func (e edit) on(b []byte, owned bool) []byte {
	if !owned {
		b = slices.Clone(b)
	}
	end := e.off
	if !e.cut {
		end += int64(len(e.data))
	} else if end <= int64(len(b)) {
		return b[:end:end]
	}
	if grow := end - int64(len(b)); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	copy(b[e.off:], e.data)
	return b
}

func (f *file) sync() {
	if len(f.pending) == 0 || f.lost {
		f.pending = nil
		return
	}
	f.kept, f.pending, f.owned = fixed(f.view()), nil, false
}

// New returns an empty disk on which these folders are, durably.
func New(folders ...string) *Disk {
	d := &Disk{root: newFolder(), files: map[int]*file{}}
	for _, name := range folders {
		at := d.root
		for _, element := range split(name) {
			if at.entries[element] == nil {
				at.entries[element] = &entry{durable: newFolder()}
			}
			at = at.entries[element].durable
		}
	}
	return d
}

func newFolder() *node { return &node{entries: map[string]*entry{}} }

func split(path string) []string {
	return strings.FieldsFunc(filepath.ToSlash(path), func(r rune) bool { return r == '/' })
}

func pathError(op, path string, err error) error {
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// find returns what a path means to the processes.
func (d *Disk) find(op, path string) (*node, error) {
	at := d.root
	for _, element := range split(path) {
		if at.entries == nil {
			return nil, pathError(op, path, syscall.ENOTDIR)
		}
		e := at.entries[element]
		if e == nil || e.now() == nil {
			return nil, pathError(op, path, fs.ErrNotExist)
		}
		at = e.now()
	}
	return at, nil
}

// entry returns the entry of a path, made if it is missing; its folder must be there.
func (d *Disk) entry(op, path string) (*entry, error) {
	elements := split(path)
	if len(elements) == 0 {
		return nil, pathError(op, path, fs.ErrInvalid)
	}
	folder, err := d.find(op, strings.Join(elements[:len(elements)-1], "/"))
	if err != nil {
		return nil, err
	}
	if folder.entries == nil {
		return nil, pathError(op, path, syscall.ENOTDIR)
	}
	last := elements[len(elements)-1]
	e := folder.entries[last]
	if e == nil {
		e = &entry{}
		folder.entries[last] = e
	}
	return e, nil
}

func (d *Disk) change(e *entry, n *node) uint64 {
	d.seq++
	e.changes = append(e.changes, change{node: n, seq: d.seq})
	return d.seq
}

// Apply makes an effect. An error is that of the system call and changes nothing.
func (d *Disk) Apply(e Effect) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.apply(e)
}

func (d *Disk) apply(e Effect) error {
	switch e.Op {
	case OpWrite, OpTruncate, OpSync:
		f := d.files[e.File]
		if f == nil {
			return pathError(e.Op.String(), e.Path, fs.ErrClosed)
		}
		switch e.Op {
		case OpSync:
			f.sync()
		case OpWrite:
			f.edit(edit{off: e.Off, data: e.Data})
		default:
			f.edit(edit{off: e.Off, cut: true})
		}
		return nil
	case OpOpen:
		n, err := d.find("open", e.Path)
		if err == nil && n.file == nil {
			err = pathError("open", e.Path, syscall.EISDIR)
		}
		if err == nil {
			d.files[e.File] = n.file
		}
		return err
	case OpSyncDir:
		n, err := d.find("syncdir", e.Path)
		if err == nil && n.file != nil {
			err = pathError("syncdir", e.Path, syscall.ENOTDIR)
		}
		if err != nil {
			return err
		}
		for _, x := range n.entries {
			x.settle(d.seq)
		}
		return nil
	case OpNote:
		return nil
	}
	return d.rename(e)
}

// rename makes the effects on names.
func (d *Disk) rename(e Effect) error {
	op := e.Op.String()
	at, err := d.entry(op, e.Path)
	if err != nil {
		return err
	}
	old := at.now()
	switch e.Op {
	case OpCreate, OpMkdir:
		if old != nil {
			return pathError(op, e.Path, fs.ErrExist)
		}
		n := newFolder()
		if e.Op == OpCreate {
			n = &node{file: newFile()}
			d.files[e.File] = n.file
		}
		d.change(at, n)
		return nil
	}
	if old == nil {
		return pathError(op, e.Path, fs.ErrNotExist)
	}
	switch e.Op {
	case OpRemove, OpRemoveDir:
		if (old.file == nil) != (e.Op == OpRemoveDir) {
			return pathError(op, e.Path, syscall.EISDIR)
		}
		for _, x := range old.entries {
			if x.now() != nil {
				return pathError(op, e.Path, syscall.ENOTEMPTY)
			}
		}
		d.change(at, nil)
		return nil
	}
	to, err := d.entry(op, e.To)
	if err != nil {
		return err
	}
	if to.now() != nil && (e.Op != OpRename || to.now().file == nil) {
		return pathError(op, e.To, fs.ErrExist)
	}
	if to == at {
		return nil
	}
	there := d.change(to, old)
	if e.Op != OpLink {
		d.change(at, nil)
		last := &at.changes[len(at.changes)-1]
		last.with, last.withSeq = to, there
	}
	return nil
}

// Lose parts what the processes see of an open file from what is on the medium:
// what a failed fsync does. See the package comment.
func (d *Disk) Lose(file int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[file]; f != nil && len(f.pending) > 0 {
		f.pending, f.lost = nil, true
	}
}
