package images

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk/open"
)

// Scan sorts the entries of a folder into images and the rest. Both come in the
// order of their names, what does not even look like an image behind the rest.
func Scan(dir string) ([]Image, []hypervisor.Unprotected, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	var found []Image
	var rest, none []hypervisor.Unprotected
	for _, e := range entries {
		m := At(e.Name(), filepath.Join(dir, e.Name()))
		reason, err := m.Refuse(dir, e)
		if err != nil {
			return nil, nil, fmt.Errorf("disk %s: %w", m.Key, err)
		}
		switch reason {
		case "":
			found = append(found, m)
		case NoImage:
			none = append(none, hypervisor.Unprotected{Key: m.Key, Reason: reason})
		default:
			rest = append(rest, hypervisor.Unprotected{Key: m.Key, Reason: reason})
		}
	}
	return found, append(rest, none...), nil
}

// NoImage is what Refuse says of a file that does not look like an image at all.
const NoImage = "neither the name nor the signature of a disk image"

// Refuse tells why an entry of dir is no disk, or "". It settles the path of a link.
func (m *Image) Refuse(dir string, e fs.DirEntry) (string, error) {
	named := hasDiskName(m.Key)
	mode := e.Type()
	if mode&fs.ModeSymlink != 0 {
		path, reason := follow(dir, m.Path)
		if reason != "" {
			return reason, nil
		}
		m.Path = path
		st, err := os.Lstat(path)
		if err != nil {
			return "", err
		}
		mode = st.Mode().Type()
	}
	switch {
	case mode.IsDir():
		return "a folder; only the files of the guest's own folder are disks", nil
	case !mode.IsRegular():
		return "not a regular file", nil
	case named:
		return "", nil
	case isSet(m.Key):
		return open.Foreign(m.Key), nil
	}
	f, err := OpenFile(m.Path)
	if err != nil {
		return fmt.Sprintf("no disk by its name, and cannot be read: %v", err), nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	switch format, err := open.Probe(f, st.Size()); {
	case err != nil:
		return fmt.Sprintf("no disk by its name, and cannot be read: %v", err), nil
	case format == "vhdx", format == "vhd", format == "qcow2":
		return "", nil
	case format != "":
		return "a disk image of format " + format + ", which is not supported", nil
	}
	return cmp.Or(open.Foreign(m.Key), NoImage), nil
}

// hasDiskName reports whether a file is a disk by its name.
func hasDiskName(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".vhdx", ".avhdx", ".vhd", ".avhd", ".qcow2", ".raw", ".img":
		return true
	}
	return false
}

// follow resolves a link inside dir, or tells why it is not followed. A link to
// a file of dir itself would only list a disk twice.
func follow(dir, link string) (path, reason string) {
	path, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", fmt.Sprintf("a link that leads nowhere: %v", err)
	}
	rel, err := filepath.Rel(dir, path)
	switch {
	case err != nil || !filepath.IsLocal(rel):
		return "", "a link that leaves the guest's folder, to " + path
	case filepath.Dir(path) == dir:
		return "", "a link to " + filepath.Base(path) + " beside it"
	}
	return path, ""
}
