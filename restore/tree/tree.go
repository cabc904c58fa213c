// Package tree writes the files of an exported machine's tree back, so that its
// checkpoints can be reverted to.
//
// [NewPlan] takes from a point what belongs to the tree, [Plan.Write] writes it into a
// folder. A carried file comes back byte for byte. Of a tree without checkpoints the
// disks' images were not kept as files: each is written anew, in the format and at the
// path it had, and holds what the machine saw.
//
// What a point says of paths is not trusted: each is relative, made of names that are
// plain on every system, and no two are the same file on one that does not tell capitals from
// small letters (see export.Names). Nothing is written outside the folder, nor at
// another path inside: a link below it is followed nowhere, see folders.
//
// The folder must be empty or missing, else ErrOccupied; with Force what is there stays,
// except for ordinary files at the paths of the tree, each of which is replaced in one
// step. Every file appears under its name only whole and durable, configurations
// last: a tree that was not finished has no machine in it. A process that dies leaves,
// besides whole files, at most one called ".NAME.*.part" (see restore/part), which the
// next Write of a tree with NAME removes. When Write returns nil, files, folders and
// their names are durable (on Windows, which syncs no folders, names when the system
// writes them). Holes stay holes.
package tree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/restore/part"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vdisk"
)

var (
	// ErrNone says that the point has no tree.
	ErrNone = errors.New("the point has no files of an exported machine")
	// ErrOccupied says that something is in the folder. It is an fs.ErrExist.
	ErrOccupied = fmt.Errorf("the folder is not empty: %w", fs.ErrExist)
)

// maxFiles is how many files a point's tree may have: far more than a backup takes.
const maxFiles = 20_000

// Plan is what of a point makes a tree.
type Plan struct {
	Files   []events.PointDisk // in the order in which they are written
	Folders []string           // each after the one it is in
	Size    int64              // of all files' contents, and disks
	Defects []export.Defect    // what was not whole when the point was made
}

// Options of Write.
type Options struct {
	restore.Options // Progress counts all files together
	// Like begins an image of the format and kind that the disk had; a nil function is
	// for a raw one. What it cannot make is vdisk.ErrUnsupported.
	Like func(d events.PointDisk) (func(f vdisk.File, d events.PointDisk) (restore.Image, error), error)
	// Force writes into a folder that is not empty.
	Force bool
}

// File is one that was written.
type File struct {
	Disk    events.PointDisk
	Path    string // where it is now
	Written int64  // of its bytes, what is not a hole
}

// NewPlan takes the tree out of a point. The error is ErrNone, or export.ErrPath for
// a path that no tree has.
func NewPlan(point events.PointCommitted) (*Plan, error) {
	p := &Plan{}
	var names export.Names
	carried := map[string]bool{}
	add := func(d events.PointDisk) error {
		if len(p.Files) == maxFiles {
			return fmt.Errorf("more than %d files: %w", maxFiles, export.ErrPath)
		}
		if err := names.AddFile(d.File); err != nil {
			return err
		}
		p.Files = append(p.Files, d)
		p.Size += max(d.Size, 0)
		return nil
	}
	for _, d := range point.Disks {
		if d.Carried {
			carried[d.File] = true
			if err := add(d); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range point.Disks {
		if d.Carried || d.File == "" || carried[d.File] {
			continue
		}
		if err := add(d); err != nil {
			return nil, err
		}
	}
	if len(p.Files) == 0 {
		return nil, ErrNone
	}
	if c, err := export.ReadConfiguration(point.Config); err == nil {
		p.Defects = c.Defects
		for _, folder := range c.Folders {
			if err := names.AddFolder(folder); err != nil {
				return nil, err
			}
		}
	}
	p.Folders = names.Folders()
	slices.SortStableFunc(p.Files, func(a, b events.PointDisk) int { return cmp.Compare(rank(a.File), rank(b.File)) })
	return p, nil
}

// rank puts configurations behind all else.
func rank(file string) int {
	switch strings.ToLower(path.Ext(file)) {
	case ".vmcx", ".xml":
		return 1
	}
	return 0
}

// writer is one Write.
type writer struct {
	v    *vault.Vault
	o    Options
	in   folders
	to   string
	done restore.Progress // of the files before this one
}

// Write writes the tree into the folder to, which is made if it is missing. An error
// names the file; those before it are there.
func (p *Plan) Write(ctx context.Context, v *vault.Vault, to string, o Options) ([]File, error) {
	to, err := filepath.Abs(to)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(to); err == nil && !st.IsDir() {
		return nil, notFolder{to}
	}
	if err := dir.MakeAll(dir.OS(), to); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	w := &writer{v: v, o: o, in: folders{root}, to: to, done: restore.Progress{Size: p.Size}}
	if err := w.prepare(p); err != nil {
		return nil, err
	}
	var out []File
	for n, d := range p.Files {
		if n > 0 && rank(d.File) > rank(p.Files[n-1].File) {
			// A crash from here on leaves configurations whose disks are there.
			if err := w.syncFolders(p); err != nil {
				return out, err
			}
		}
		f, err := w.file(ctx, d)
		if err != nil {
			return out, fmt.Errorf("restore %s to %s: %w", d.File, to, err)
		}
		out = append(out, f)
	}
	return out, w.syncFolders(p)
}

// prepare looks at what is in the folder before anything is written, takes away what
// died restores left, and makes the folders below.
func (w *writer) prepare(p *Plan) error {
	if empty, err := w.in.empty(); err != nil || !empty && !w.o.Force {
		return cmp.Or(err, ErrOccupied)
	}
	names := map[string][]string{} // of the tree's files, by their folders
	for _, d := range p.Files {
		names[path.Dir(d.File)] = append(names[path.Dir(d.File)], path.Base(d.File))
	}
	for _, folder := range append([]string{"."}, p.Folders...) {
		at, err := w.in.open(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, name := range names[folder] {
			if st, err := at.Lstat(name); err == nil && !st.Mode().IsRegular() {
				_ = at.Close()
				return fmt.Errorf("%s: %w", filepath.Join(w.to, filepath.FromSlash(folder), name), restore.ErrNotFile)
			}
		}
		part.Sweep(at, names[folder]...)
		_ = at.Close()
	}
	for _, folder := range p.Folders {
		if err := w.in.make(folder); err != nil {
			return err
		}
	}
	return nil
}

// file writes one file.
func (w *writer) file(ctx context.Context, d events.PointDisk) (File, error) {
	out := File{Disk: d, Path: filepath.Join(w.to, filepath.FromSlash(d.File))}
	o := restore.RawOptions{Options: w.o.Options}
	if !d.Carried {
		var err error
		if o.Image, err = w.o.Like(d); errors.Is(err, vdisk.ErrUnsupported) {
			return out, fmt.Errorf("%w: %v", restore.ErrForm, err)
		} else if err != nil {
			return out, err
		}
	}
	before := w.done
	o.Progress = func(now restore.Progress) {
		out.Written = now.Written
		w.done = restore.Progress{Size: before.Size, Done: before.Done + now.Done, Written: before.Written + now.Written, Read: before.Read + now.Read}
		if w.o.Progress != nil {
			w.o.Progress(w.done)
		}
	}
	folder, err := w.in.open(path.Dir(d.File))
	if err != nil {
		return out, err
	}
	defer folder.Close()
	f, err := part.In(folder, path.Base(d.File))
	if err != nil {
		return out, err
	}
	temp := filepath.Base(f.Name())
	if err := restore.Into(ctx, w.v, d, f, o); err != nil {
		_ = f.Close()
		_ = folder.Remove(temp)
		return out, err
	}
	// The file is whole and durable. A crash before this leaves the temp, one after it
	// the file, of which only the name may yet be lost.
	if err := w.appear(folder, temp, path.Base(d.File)); err != nil {
		_ = folder.Remove(temp)
		return out, err
	}
	return out, nil
}

// appear gives a file its name; without Force none that is there loses it. dir.FS has
// calls for that which take paths, and would follow links in them.
func (w *writer) appear(folder *os.Root, temp, name string) error {
	if w.o.Force {
		if st, err := folder.Lstat(name); err == nil && !st.Mode().IsRegular() {
			return restore.ErrNotFile
		}
		return folder.Rename(temp, name)
	}
	err := folder.Link(temp, name)
	switch {
	case err == nil:
		return folder.Remove(temp)
	case errors.Is(err, fs.ErrExist):
		return restore.ErrExists
	}
	// A file system without hard links: somebody else's file could only come in
	// between these two lines.
	if _, err := folder.Lstat(name); err == nil {
		return restore.ErrExists
	}
	return folder.Rename(temp, name)
}

// syncFolders makes the names in all folders durable, the deepest first.
func (w *writer) syncFolders(p *Plan) error {
	for _, folder := range slices.Backward(p.Folders) {
		if err := dir.OS().SyncDir(filepath.Join(w.to, filepath.FromSlash(folder))); err != nil {
			return err
		}
	}
	return dir.OS().SyncDir(w.to)
}
