package sidecar

import (
	"fmt"
	"os"
	"path/filepath"
)

// Update is what a job has found out about a disk's blocks, in a file of the job.
// It outlives the process that writes it, not the machine.
type Update struct{ *File }

// Gather opens the update at path, which a killed predecessor may have begun, or
// begins one.
func Gather(path string, k Key) (*Update, error) {
	f, err := open(path, k, os.O_RDWR)
	if err != nil {
		f, err = create(path, k)
	}
	if err != nil {
		return nil, err
	}
	return &Update{f}, nil
}

// Keep writes down the records of a parcel whose first cell is first. Those of a
// cell that came before are replaced. b empty: the parent's records stand.
func (u *Update) Keep(first int64, cells int, b []byte) error {
	if len(b) == 0 {
		for n := range int64(cells) {
			if err := u.mark(first+n, stands); err != nil {
				return fmt.Errorf("keep the hashes of blocks: %w", err)
			}
		}
		return nil
	}
	if err := u.key.Check(b, cells); err != nil || first < 0 || first+int64(cells) > u.key.Cells() {
		return fmt.Errorf("keep the hashes of blocks: %d bytes for %d cells from %d: %w", len(b), cells, first, errRecords)
	}
	for n := first; len(b) > 0; n++ {
		what, body, rest, err := u.key.split(b)
		switch {
		case err != nil:
		case what == known:
			err = u.put(n, body)
		case what == same:
			err = u.mark(n, stands)
		default:
			err = u.mark(n, what)
		}
		if err != nil {
			return fmt.Errorf("keep the hashes of blocks: %w", err)
		}
		b = rest
	}
	return nil
}

// Apply makes the sidecar of the disk that of a committed point: the one of its
// parent is changed where the job found something else; if that cannot be used, the
// update takes its place. The update is used up. from is zero if nothing was compared.
//
// A crash at any step leaves the old sidecar, which is of a point that is no parent
// any more, or a dirty one; both are as good as none. Called again for the same
// point, Apply goes on.
func (u *Update) Apply(folder string, from, to At) error {
	defer u.Close()
	err := u.apply(Path(folder, u.key), from, to)
	if err != nil {
		return fmt.Errorf("apply the hashes of blocks: %w", err)
	}
	return nil
}

func (u *Update) apply(path string, from, to At) error {
	base, err := open(path, u.key, os.O_RDWR)
	if err != nil {
		return u.replace(path, to)
	}
	defer base.Close()
	switch {
	case !base.dirty && base.at == to: // done before
		return nil
	case !from.Point.IsZero() && (!base.dirty && base.at == from || base.dirty && base.next == to.Point):
		return u.merge(base, to)
	}
	return u.replace(path, to)
}

// merge changes base where the job found something else.
func (u *Update) merge(base *File, to At) error {
	base.dirty, base.next = true, to.Point
	if err := base.sync(); err != nil {
		return err
	}
	// From here to the last sync the file is dirty on the disk too: whatever part
	// of the changes a crash leaves, nobody believes it.
	err := eachState(func(cell int64, what []byte) error {
		body, ok := []byte(nil), false
		if what[0] == known {
			body, ok = u.record(cell)
		}
		switch {
		case ok:
			return base.put(cell, body)
		case what[0] != stands && what[1] != none:
			return base.drop(cell)
		}
		return nil
	}, u.File, base)
	if err != nil {
		return err
	}
	if err := base.f.Sync(); err != nil {
		return err
	}
	base.head = head{uid: base.uid, at: to}
	// Before this sync the file is as good as none; after it, it is the point's.
	return base.sync()
}

// replace puts the update in the sidecar's place. What it took from a parent's
// sidecar that is gone is not known any more.
func (u *Update) replace(path string, to At) error {
	err := eachState(func(cell int64, what []byte) error {
		if what[0] != known && what[0] != none {
			return u.mark(cell, none)
		}
		return nil
	}, u.File)
	if err != nil {
		return err
	}
	if err := u.f.Sync(); err != nil {
		return err
	}
	u.head = head{uid: u.uid, at: to}
	if err := u.sync(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	name := u.f.Name()
	if err := u.Close(); err != nil { // some systems do not rename what is open
		return err
	}
	// A crash before the rename is durable leaves the old file, of another point.
	return os.Rename(name, path)
}

func (f *File) sync() error {
	if err := f.writeHeader(); err != nil {
		return err
	}
	return f.f.Sync()
}

// eachState calls fn with every cell's state in each of the files, which are of one
// disk. It reads a stretch of them at a time.
func eachState(fn func(cell int64, what []byte) error, files ...*File) error {
	cells := files[0].key.Cells()
	rows := make([][]byte, len(files))
	what := make([]byte, len(files))
	for at := int64(0); at < cells; at += 64 << 10 {
		n := min(cells-at, 64<<10)
		for i, f := range files {
			rows[i] = make([]byte, n)
			if _, err := f.f.ReadAt(rows[i], statesAt+at); err != nil {
				return err
			}
		}
		for k := range n {
			for i := range files {
				what[i] = rows[i][k]
			}
			if err := fn(at+k, what); err != nil {
				return err
			}
		}
	}
	return nil
}
