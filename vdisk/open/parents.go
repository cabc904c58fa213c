package open

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/raw"
	"github.com/millrace-backup/millrace/vdisk/regular"
	"github.com/millrace-backup/millrace/vdisk/vhd"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// Errors about the parents of a differencing image.
var (
	// ErrParentNeeded says that the image is a differencing one, and that no folder was
	// allowed in which to look for its parent. It is a vdisk.ErrUnsupported.
	ErrParentNeeded = errors.New("parent image is needed")
	// ErrNoParent says that no file in the allowed folders has a name that the
	// child gives.
	ErrNoParent = errors.New("parent image not found")
	// ErrWrongParent says that there is such a file and that it is not the one: it
	// has another id, another format, or is the child of its own child.
	ErrWrongParent = errors.New("not the parent image")
)

// errEnough says that the search was given up.
var errEnough = fmt.Errorf("%w: the search for parents was given up", vdisk.ErrUnsupported)

// Limits of what is looked at for one image. Files that name each other could be
// tried in every order.
const (
	maxDepth  = 64        // parents one below the other; Hyper-V makes 50 checkpoints at most
	maxTries  = 256       // files that are there and may be a parent
	maxFailed = 16        // files that have the right id, and still cannot be opened
	maxHeld   = 128 << 20 // bytes that the logs and the tables of all parents take while they are open
	maxErrors = 8         // that are told of one parent
)

// Parents finds the parents of one image, and theirs, in folders that the caller
// allows. See [FindParents].
type Parents struct {
	folders []string
	child   string // path of the image whose parent is looked for; that of the last parent later
	chain   []layer

	tries, failed int
	held          int64
}

// layer is an open image of a chain.
type layer struct {
	Layer
	f *os.File
}

// Layer is one image of a chain.
type Layer struct {
	Path  string
	Info  vdisk.Info
	Image vdisk.Image // the merged view from here downwards
}

// FindParents returns what opens the parents of the image at path. Each of folders
// and what is below it may hold parents, and nothing else may: not by "..", not by
// an absolute path, not by a symbolic link that leads out. Close closes the files.
//
// A parent is looked for where the child says, in the order that it gives: its
// relative path first, from the folder of the child; absolute paths that begin with
// an allowed folder, as it was given or without symbolic links. A path is compared
// before anything is looked up by it. Paths of Windows are understood on any system,
// but those that name a volume by its id are not followed; where there is no file as they
// write it, one that differs by capitals alone is meant. After that, for parents that
// have an id, the names alone count, in the folder of the child if it is allowed, then in
// each allowed folder itself. The first file that is the parent is taken; whether it is
// tells its id. A qcow2 child names no id, so that another file of the same name would
// pass for its parent: it has the one that it names, or none. Only a child that says so
// has a raw parent.
//
// The ids of the disks (which a chain of VHDX images shares, unless somebody has
// reset one) are not compared: the link is the parent's very content.
func FindParents(path string, folders ...string) *Parents {
	return &Parents{folders: folders, child: path}
}

// Close closes the files of all parents. No read may be under way.
func (p *Parents) Close() error {
	var all []error
	for _, l := range p.chain {
		all = append(all, l.f.Close())
	}
	p.chain = nil
	return errors.Join(all...)
}

// Layers are the parents that were opened, the image's own first.
func (p *Parents) Layers() []Layer {
	var out []Layer
	for _, l := range p.chain {
		out = append(out, l.Layer)
	}
	return out
}

// Find is the vdisk.FindParent of the image, for one Open of it.
func (p *Parents) Find(want vdisk.Parent) (vdisk.Image, error) { return p.find(want, p.child, nil, 1) }

// find opens the parent that the image at child asks for. above are the files of
// its children.
func (p *Parents) find(want vdisk.Parent, child string, above []fs.FileInfo, depth int) (vdisk.Image, error) {
	if len(p.folders) == 0 {
		_, err := vdisk.NoParent(want)
		return nil, fmt.Errorf("%w: %w", ErrParentNeeded, err)
	}
	if depth > maxDepth {
		return nil, vdisk.Unsupported("more than %d images one below the other; merge some of the checkpoints", maxDepth)
	}
	st, err := os.Stat(child)
	if err != nil {
		return nil, fmt.Errorf("find parent of %s: %w", child, err)
	}
	above = append(above[:len(above):len(above)], st)
	var wrong []error
	for _, c := range p.candidates(want, child) {
		image, err := p.try(want, c, above, depth)
		if err == nil {
			return image, nil
		}
		if errors.Is(err, errEnough) {
			return nil, err
		}
		if !errors.Is(err, fs.ErrNotExist) && len(wrong) < maxErrors {
			wrong = append(wrong, err)
		}
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	within := strings.Join(p.folders, ", ")
	if len(want.Links) == 0 {
		return nil, fmt.Errorf("%w: %s asks for %s, which is not inside %s, and has no id by which another file could be told to be it; back up a folder that holds both, or copy it there and tell the child with qemu-img rebase -u",
			ErrNoParent, child, names(want), within)
	}
	return nil, fmt.Errorf("%w: %s asks for %s, which was looked for where that leads inside %s, and by its name there and beside the child; copy it there",
		ErrNoParent, child, names(want), within)
}

func names(want vdisk.Parent) string {
	var out []string
	for _, c := range want.Paths {
		out = append(out, fmt.Sprintf("%q", c.Path))
	}
	return strings.Join(out, " or ")
}

// candidate is a file in an allowed folder.
type candidate struct{ folder, name string }

// candidates are the files that may be the parent, without doubles.
func (p *Parents) candidates(want vdisk.Parent, child string) []candidate {
	home := real(filepath.Dir(child))
	var out []candidate
	add := func(folder, name string) {
		c := candidate{folder, filepath.Clean(name)}
		if filepath.IsLocal(c.name) && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	// inside adds an absolute path if it lies in an allowed folder. Nothing is asked
	// of the system about the path: on Windows it may name another machine.
	inside := func(path string) {
		for _, folder := range p.folders {
			given, err := filepath.Abs(folder)
			if err != nil {
				continue
			}
			for _, form := range []string{given, real(folder)} {
				if name, err := filepath.Rel(form, path); err == nil {
					add(folder, name)
				}
			}
		}
	}
	for _, c := range want.Paths {
		at := local(c)
		switch {
		case c.Kind == vdisk.RelativePath && !filepath.IsAbs(at):
			inside(filepath.Join(home, at))
		case filepath.IsAbs(at):
			inside(filepath.Clean(at))
		}
	}
	for _, c := range want.Paths {
		name := base(c)
		if name == "" || len(want.Links) == 0 {
			continue
		}
		inside(filepath.Join(home, name))
		for _, folder := range p.folders {
			add(folder, name)
		}
	}
	return out
}

// real is a folder's path without symbolic links, if it can be told.
func real(folder string) string {
	if abs, err := filepath.Abs(folder); err == nil {
		folder = abs
	}
	if to, err := filepath.EvalSymlinks(folder); err == nil {
		return to
	}
	return folder
}

// local is a path in the form of this system.
func local(c vdisk.ParentPath) string {
	if !c.Windows {
		return filepath.FromSlash(c.Path)
	}
	at := strings.TrimPrefix(c.Path, `\\?\`)
	return filepath.FromSlash(strings.ReplaceAll(at, `\`, "/"))
}

// base is the last element of a path, or "" if it has none that can be a file.
func base(c vdisk.ParentPath) string {
	at := c.Path
	if c.Windows {
		at = strings.ReplaceAll(at, `\`, "/")
	}
	name := path.Base(at)
	if name == "." || name == ".." || name == "/" || strings.ContainsAny(name, ":\x00") {
		return ""
	}
	return name
}

// try opens a candidate and makes sure that it is the parent.
func (p *Parents) try(want vdisk.Parent, c candidate, above []fs.FileInfo, depth int) (vdisk.Image, error) {
	root, err := os.OpenRoot(c.folder)
	if err != nil {
		return nil, fmt.Errorf("parent folder: %w", err)
	}
	defer root.Close()
	// Not opened yet: opening a pipe would wait for who writes to it.
	st, err := root.Stat(c.name)
	if errors.Is(err, fs.ErrNotExist) && slices.ContainsFunc(want.Paths, func(at vdisk.ParentPath) bool { return at.Windows }) {
		if c.name, err = inOtherCase(root, c.name); err == nil {
			st, err = root.Stat(c.name)
		}
	}
	if err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrWrongParent, filepath.Join(c.folder, c.name))
	}
	if p.tries++; p.tries > maxTries {
		return nil, fmt.Errorf("%w after %d files; allow fewer folders, or clear them of copies", errEnough, maxTries)
	}
	f, err := root.OpenFile(c.name, os.O_RDONLY|regular.NoWait, 0)
	if err != nil {
		return nil, err
	}
	at := len(p.chain)
	l, err := p.open(want, f, filepath.Join(c.folder, c.name), above, depth)
	if err != nil {
		for _, below := range p.chain[at:] {
			err = errors.Join(err, below.f.Close())
		}
		p.chain = p.chain[:at]
		return nil, errors.Join(err, f.Close())
	}
	p.chain = slices.Insert(p.chain, at, l)
	return l.Image, nil
}

// maxEntries is how much of a folder is looked through for a name.
const maxEntries = 20_000

// inOtherCase finds the file that Windows would take a name for: the one that differs
// by nothing but capitals. Which of several is meant cannot be told.
func inOtherCase(root *os.Root, name string) (string, error) {
	at := "."
	for element := range strings.SplitSeq(filepath.ToSlash(name), "/") {
		next := filepath.Join(at, element)
		if _, err := root.Stat(next); err == nil {
			at = next
			continue
		}
		folder, err := root.Open(at)
		if err != nil {
			return "", err
		}
		entries, _ := folder.ReadDir(maxEntries) // what cannot be listed has no such name
		_ = folder.Close()
		found := ""
		for _, e := range entries {
			if !strings.EqualFold(e.Name(), element) {
				continue
			}
			if found != "" {
				return "", fs.ErrNotExist
			}
			found = e.Name()
		}
		if found == "" {
			return "", fs.ErrNotExist
		}
		at = filepath.Join(at, found)
	}
	return at, nil
}

func (p *Parents) open(want vdisk.Parent, f *os.File, path string, above []fs.FileInfo, depth int) (layer, error) {
	st, err := f.Stat()
	if err != nil {
		return layer{}, err
	}
	for _, child := range above {
		if os.SameFile(child, st) {
			return layer{}, fmt.Errorf("%w: %s is a child of itself", ErrWrongParent, path)
		}
	}
	file, err := raw.Open(f)
	if err != nil {
		return layer{}, err
	}
	format := want.Format
	if format == "" {
		// The format of a parent is not guessed where there is no signature: bytes of
		// a guest would decide what is read.
		if format, err = Probe(file, file.Size()); err != nil {
			return layer{}, err
		}
		if format == "" {
			return layer{}, fmt.Errorf("%w: %s has no signature of a disk format, and the child does not say that it is raw", ErrWrongParent, path)
		}
	}
	// The id before anything that costs: it is not the parent of most that ask.
	link, held, err := look(file, format)
	if err != nil {
		return layer{}, fmt.Errorf("parent %s: %w", path, err)
	}
	if len(want.Links) > 0 && !slices.ContainsFunc(want.Links, func(id string) bool { return strings.EqualFold(id, link) }) {
		return layer{}, fmt.Errorf("%w: %s has the id %s, the child asks for %s; it was changed since the child was made, or is another disk: the parent is needed as it was then",
			ErrWrongParent, path, link, strings.Join(want.Links, " or "))
	}
	if p.held += held; p.held > maxHeld {
		return layer{}, fmt.Errorf("%w: the logs and tables of the images take more than %d bytes; merge some of the checkpoints", errEnough, maxHeld)
	}
	m, info, err := image(file, format, func(next vdisk.Parent) (vdisk.Image, error) {
		return p.find(next, path, above, depth+1)
	})
	if err != nil {
		p.held -= held
		if p.failed++; p.failed > maxFailed {
			err = fmt.Errorf("%w after %d files that have the right id: %w", errEnough, maxFailed, err)
		}
		return layer{}, fmt.Errorf("parent %s: %w", path, err)
	}
	return layer{Layer{path, info, m}, f}, nil
}

// look tells what can be told of an image without opening it: the id by which its
// children name it, and how many bytes opening it takes whatever is read.
func look(file vdisk.Image, format string) (link string, held int64, err error) {
	switch format {
	case "vhdx":
		h, err := layout.ReadHeader(file)
		if !h.LogGUID.IsZero() {
			held = h.LogLength
		}
		return h.DataWrite.String(), held, err
	case "vhd":
		link, err = vhd.ID(file)
	case "qcow2":
		held, err = qcow2.TableSize(file)
	}
	return link, held, err
}
