package export

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrPath says that a path is none that a file of a tree can have everywhere.
var ErrPath = errors.New("not a path inside an exported tree")

const (
	maxPath    = 1024 // bytes
	maxElement = 200  // bytes: a file system takes 255, and a temp name is longer
	maxDepth   = 16   // elements
)

// CheckPath returns ErrPath unless path is relative, written with slashes, without
// "." and "..", and made of names that every system takes for just a name: none with
// a colon, a backslash or what else Windows does not allow, none that is a device there,
// none that ends with a dot or a space.
func CheckPath(path string) error {
	bad := func(why string) error { return fmt.Errorf("%q: %w: %s", shorten(path), ErrPath, why) }
	if len(path) > maxPath || !utf8.ValidString(path) {
		return bad("too long, or not UTF-8")
	}
	elements := strings.Split(path, "/")
	if len(elements) > maxDepth {
		return bad(fmt.Sprintf("more than %d levels", maxDepth))
	}
	for _, name := range elements {
		switch {
		case name == "" || name == "." || name == "..":
			return bad("it is not a plain relative path")
		case len(name) > maxElement:
			return bad(fmt.Sprintf("a name of more than %d bytes", maxElement))
		case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(`<>:"|?*\`, r) }):
			return bad("a character that Windows allows in no name")
		case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "):
			return bad("a name that ends with a dot or a space")
		case isDevice(name):
			return bad("the name of a device of Windows")
		}
	}
	return nil
}

func shorten(path string) string {
	const most = 100
	if len(path) <= most {
		return path
	}
	return strings.ToValidUTF8(path[:most], "") + "…"
}

// isDevice reports whether Windows takes a name for a device, whatever ending it has.
func isDevice(name string) bool {
	name, _, _ = strings.Cut(name, ".")
	name = strings.ToUpper(strings.TrimRight(name, " "))
	switch name {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	for _, port := range []string{"COM", "LPT"} {
		if rest, ok := strings.CutPrefix(name, port); ok && utf8.RuneCountInString(rest) == 1 && strings.ContainsAny(rest, "0123456789¹²³") {
			return true
		}
	}
	return false
}

// Names are the paths of a tree's files and folders, none of which is another's on a
// system that does not tell capitals from small letters. The zero value has none.
type Names struct {
	kinds map[string]kind // by the path, folded
}

type kind struct {
	file bool
	path string
}

// AddFile takes in a file, and the folders above it. The error is ErrPath.
func (n *Names) AddFile(path string) error { return n.add(path, true) }

// AddFolder takes in a folder, and those above it. The error is ErrPath.
func (n *Names) AddFolder(path string) error { return n.add(path, false) }

func (n *Names) add(path string, file bool) error {
	if err := CheckPath(path); err != nil {
		return err
	}
	if n.kinds == nil {
		n.kinds = map[string]kind{}
	}
	for at := range len(path) + 1 {
		if at < len(path) && path[at] != '/' {
			continue
		}
		part, asFile := path[:at], file && at == len(path)
		key := fold(part)
		old, known := n.kinds[key]
		if known && (old.file || asFile || old.path != part) {
			return fmt.Errorf("%q: %w: it is the same as %q on some systems", shorten(path), ErrPath, shorten(old.path))
		}
		n.kinds[key] = kind{asFile, part}
	}
	return nil
}

// Folders are those that the paths need, each after the one it is in.
func (n *Names) Folders() (out []string) {
	for _, k := range n.kinds {
		if !k.file {
			out = append(out, k.path)
		}
	}
	slices.Sort(out)
	return out
}

// nameKeys gives every image a key of its own, which depends on the tree alone: its name;
// with the folders above it where two have that; and with a part of its path's hash where two
// have even that, as x~y/d and x/y/d do.
func (t *Tree) nameKeys() {
	longer := func(key func(rel string) string) {
		count := map[string]int{}
		for _, m := range t.found {
			count[fold(m.Key)]++
		}
		for i, m := range t.found {
			if count[fold(m.Key)] > 1 {
				t.found[i].Key = key(t.rel(m.Path))
			}
		}
	}
	flat := func(rel string) string { return strings.ReplaceAll(rel, "/", "~") }
	longer(flat)
	longer(func(rel string) string {
		sum := sha256.Sum256([]byte(rel))
		ext := path.Ext(rel)
		return fmt.Sprintf("%s~%x%s", strings.TrimSuffix(flat(rel), ext), sum[:4], ext)
	})
}

// fold is s with every letter as the first of those that differ by case alone.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		first := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			first = min(first, next)
		}
		return first
	}, s)
}
