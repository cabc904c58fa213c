package folder

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
)

// candidate is a file that is to be a disk.
type candidate struct {
	key, path string
	format    string // "" by signature

	// What probe finds.
	info  vdisk.Info
	file  os.FileInfo
	below []os.FileInfo // the files that it is laid on
}

// scan sorts the entries of a folder into disks and the rest. Both come in the
// order of their names.
func scan(dir string) ([]candidate, []hypervisor.Unprotected, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	var disks []candidate
	var rest []hypervisor.Unprotected
	for _, e := range entries {
		c := candidate{key: e.Name(), path: filepath.Join(dir, e.Name()), format: formatOf(e.Name())}
		reason, err := c.refuse(dir, e)
		if err != nil {
			return nil, nil, fmt.Errorf("disk %s: %w", c.key, err)
		}
		if reason != "" {
			rest = append(rest, hypervisor.Unprotected{Key: c.key, Reason: reason})
		} else {
			disks = append(disks, c)
		}
	}
	return disks, rest, nil
}

// refuse tells why an entry is no disk, or "". It settles the path of a link.
func (c *candidate) refuse(dir string, e fs.DirEntry) (string, error) {
	named := hasDiskName(c.key)
	mode := e.Type()
	if mode&fs.ModeSymlink != 0 {
		path, reason := follow(dir, c.path)
		if reason != "" {
			return reason, nil
		}
		c.path = path
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
	}
	f, err := openFile(c.path)
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
	case promised(c.key) != "":
		return brokenPromise(promised(c.key)), nil
	}
	return "neither the name nor the signature of a disk image", nil
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
