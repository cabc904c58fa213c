package chunkindex

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/id"
)

// Index is a set of open files.
type Index struct {
	mu      sync.RWMutex // held for reading by look-ups, for writing while the set changes
	files   []*file
	folders []*followed
	scratch sync.Pool
}

// followed is a folder whose files come and go.
type followed struct {
	path    string
	changed time.Time        // the folder, when it was last listed
	open    map[string]*file // nil: it cannot be read
}

func newIndex() *Index {
	x := &Index{}
	x.scratch.New = func() any { b := make([]byte, 2*perBucket*entryBytes); return &b }
	return x
}

// Open opens the files that Refresh returned, all of them or none.
func Open(paths []string) (*Index, error) {
	x := newIndex()
	for _, p := range paths {
		f, err := openFile(p)
		if err != nil {
			x.Close()
			return nil, err
		}
		x.files = append(x.files, f)
	}
	return x, nil
}

// OpenFolders opens all index files in the folders and follows them: see TakeUp.
// A folder that is not there is empty, and a file that cannot be read places
// nothing.
func OpenFolders(folders ...string) (*Index, error) {
	x := newIndex()
	for _, p := range folders {
		x.folders = append(x.folders, &followed{path: p, open: map[string]*file{}})
	}
	return x, x.TakeUp(true)
}

// TakeUp opens files that have come since and closes those that have gone. It
// costs a stat for each folder if none has; all lists them whatever their time
// says, which may miss a file that came within some milliseconds of the last one.
func (x *Index) TakeUp(all bool) error {
	for _, d := range x.folders {
		st, err := os.Stat(d.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("follow the chunk index: %w", err)
		}
		if !all && st.ModTime().Equal(d.changed) {
			continue
		}
		if err := x.list(d); err != nil {
			return err
		}
		d.changed = st.ModTime() // from before the listing: what came after it is seen next time
	}
	return nil
}

func (x *Index) list(d *followed) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("follow the chunk index: %w", err)
	}
	now := map[string]*file{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		f, known := d.open[e.Name()]
		if !known {
			if f, err = openFile(filepath.Join(d.path, e.Name())); errors.Is(err, fs.ErrNotExist) {
				continue // merged meanwhile
			}
		}
		now[e.Name()] = f // nil if it cannot be read: it is not tried again
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	old := d.open
	d.open = now
	x.files = nil
	for _, d := range x.folders {
		for _, f := range d.open {
			if f != nil {
				x.files = append(x.files, f)
			}
		}
	}
	for name, f := range old {
		if _, still := now[name]; !still && f != nil {
			_ = f.f.Close()
		}
	}
	return nil
}

// suffix ends the names of index files.
const suffix = ".idx"

// Close closes the files.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var errs []error
	for _, f := range x.files {
		errs = append(errs, f.f.Close())
	}
	x.files = nil
	return errors.Join(errs...)
}

// Find says where the chunk is, if any file knows it.
func (x *Index) Find(c id.Chunk) (Place, bool) {
	buf := x.scratch.Get().(*[]byte)
	defer x.scratch.Put(buf)
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, f := range x.files {
		if p, ok := f.find(c, buf); ok {
			return p, true
		}
	}
	return Place{}, false
}

// Has reports whether the chunk is in the vault.
func (x *Index) Has(c id.Chunk) bool { _, ok := x.Find(c); return ok }
