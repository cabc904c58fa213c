package sidecar

import (
	"bytes"
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
			if err = u.put(n, body); err == nil {
				err = u.mark(n, known)
			}
		case what == same:
			err = u.mark(n, stands)
		case what == zeros:
			err = u.mark(n, blank)
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
//
// left says of cells that are not in the update why the job has not read them.
func (u *Update) Apply(folder string, from, to At, left func(cell int64) Left) error {
	defer u.Close()
	err := u.apply(Path(folder, u.key), from, to, left)
	if err != nil {
		return fmt.Errorf("apply the hashes of blocks: %w", err)
	}
	return nil
}

func (u *Update) apply(path string, from, to At, left func(cell int64) Left) error {
	base, err := open(path, u.key, os.O_RDWR)
	if err != nil {
		return u.replace(path, to, left)
	}
	defer base.Close()
	switch {
	case !base.dirty && base.at == to: // done before
		return nil
	case !from.Point.IsZero() && (!base.dirty && base.at == from || base.dirty && base.next == to.Point):
		return u.merge(base, to, left)
	}
	return u.replace(path, to, left)
}

// merge changes base where the job found something else.
func (u *Update) merge(base *File, to At, left func(cell int64) Left) error {
	base.dirty, base.next = true, to.Point
	if err := base.sync(); err != nil {
		return err
	}
	// From here to the last sync the file is dirty on the disk too: whatever part
	// of the changes a crash leaves, nobody believes it.
	err := eachState(func(cell int64, what []byte) error { return u.mergeCell(base, cell, what, left) }, u.File, base)
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

// mergeCell changes what base has of one cell: its record, and in what its state.
func (u *Update) mergeCell(base *File, cell int64, what []byte, left func(cell int64) Left) error {
	was := what[1]
	switch what[0] {
	case stands:
		return nil
	case known:
		if body, ok := u.record(cell); ok {
			what[1] = known
			return base.put(cell, body)
		}
		what[1] = none
	case blank:
		what[1] = blank
	case none:
		switch left(cell) {
		case LeftSame:
			return nil
		case LeftHole:
			what[1] = blank
		default:
			what[1] = none
		}
	default:
		what[1] = none
	}
	if was == known {
		return base.drop(cell)
	}
	return nil
}

// Left is why a job has not read a cell.
type Left int

// Reasons.
const (
	LeftLost Left = iota // it has, and what it found out is lost
	LeftHole             // it is a hole
	LeftSame             // it is known to be as in the parent
)

// replace puts the update in the sidecar's place. What it took from a parent's
// sidecar that is gone is not known any more.
func (u *Update) replace(path string, to At, left func(cell int64) Left) error {
	err := eachState(func(cell int64, what []byte) error {
		switch {
		case what[0] == known, what[0] == blank:
		case what[0] == none && left(cell) == LeftHole:
			what[0] = blank
		default:
			what[0] = none
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
// disk. What fn makes of them is written back. It reads a stretch of them at a time.
func eachState(fn func(cell int64, what []byte) error, files ...*File) error {
	cells := files[0].key.Cells()
	rows, was := make([][]byte, len(files)), make([][]byte, len(files))
	what := make([]byte, len(files))
	for at := int64(0); at < cells; at += 64 << 10 {
		n := min(cells-at, 64<<10)
		for i, f := range files {
			rows[i] = make([]byte, n)
			if _, err := f.f.ReadAt(rows[i], statesAt+at); err != nil {
				return err
			}
			was[i] = bytes.Clone(rows[i])
		}
		for k := range n {
			for i := range files {
				what[i] = rows[i][k]
			}
			if err := fn(at+k, what); err != nil {
				return err
			}
			for i := range files {
				rows[i][k] = what[i]
			}
		}
		for i, f := range files {
			if bytes.Equal(was[i], rows[i]) {
				continue
			}
			if _, err := f.f.WriteAt(rows[i], statesAt+at); err != nil {
				return err
			}
		}
	}
	return nil
}
