// Package images finds disk images among the files of a folder, and says what each
// of them is and which files it is laid on.
//
// [Scan] sorts one folder, [Image.Refuse] judges one file, [Image.Probe] opens one
// and notes what it is. [Leaves] are the images that no other is laid on: what
// guests write to.
//
// All bytes of a raw disk are its guest's. It may write the signature of another format
// where one would be, with the path of a parent, and would be given that file's bytes in
// its own backup if signatures were believed. So names come first: a file *.raw is raw
// whatever it contains, *.vhdx, *.vhd and *.qcow2 are what their names say or an error
// (*.avhdx and *.avhd are what Hyper-V calls a differencing VHDX or VHD). A device is raw.
// A *.img is raw, and an error if it has the signature of another format: nobody but the
// operator can tell. Any other is what its signature says, raw if it has none, except where
// the name promises a format that is not readable (*.vmdk): a damaged image must not pass
// for a raw disk.
//
// Links are followed only to what lies inside the folder that is looked at. The
// package never writes.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
)

// Image is a file that is to be a disk.
type Image struct {
	Key, Path string
	Format    string // that its name settles; "" by signature

	// What Probe finds.
	Info  vdisk.Info
	Below []string // the files that it is laid on, its own parent first, links resolved
	id    string   // its own path, links resolved, as Below would have it
}

// At is the image at path, which Probe has yet to look at.
func At(key, path string) Image { return Image{Key: key, Path: path, Format: formatOf(path)} }

// formatOf is the format that a file's name settles, or "".
func formatOf(path string) string {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".raw", ".vhdx", ".vhd", ".qcow2":
		return ext[1:]
	case ".avhdx", ".avhd":
		return ext[2:]
	}
	return ""
}

// isSet tells a disk that guests share by its name: never an image, whatever its bytes.
func isSet(name string) bool { return strings.EqualFold(filepath.Ext(name), ".vhds") }

// guess is the format of a file whose name settles none: by signature, "" if it has none.
func guess(path string, f *os.File) (string, error) {
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if st.Mode()&fs.ModeDevice != 0 {
		return "raw", nil
	}
	if isSet(path) {
		return "", fmt.Errorf("%w: %s", vdisk.ErrUnsupported, open.Foreign(path))
	}
	format, err := open.Probe(f, st.Size())
	if err == nil && format != "" && strings.EqualFold(filepath.Ext(path), ".img") {
		err = fmt.Errorf("%w: its name is that of a raw disk and it has the signature of %s, which a guest can write too; rename it to .raw or to .%[2]s, whichever it is", vdisk.ErrUnsupported, format)
	}
	return format, err
}

// Open opens the image at path by format, or by name and signature when it is "". A
// file without a signature is raw then, unless its name promises otherwise
// (open.Foreign). Its parents are looked for in the folders given.
func Open(path, format string, parents []string) (*open.Disk, error) {
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	if format == "" {
		if format, err = guess(path, f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	image, err := open.File(f, open.Options{Format: format, Parents: parents})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return image, nil
}

// Folders are where the parents of a source's images may be: in a source
// that is a folder, and below it.
func Folders(source string) []string {
	st, err := os.Stat(source)
	if err != nil || !st.IsDir() {
		return nil // what is wrong with it is said when it is opened
	}
	return []string{source}
}

// Probe opens each image and notes what it is, and which files it is laid on.
func Probe(ctx context.Context, found []Image, parents []string) error {
	for i := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := found[i].Probe(parents); err != nil {
			return fmt.Errorf("disk %s: %w", found[i].Key, err)
		}
	}
	return nil
}

// Probe opens the image and notes what it is, and which files it is laid on.
func (m *Image) Probe(parents []string) error {
	image, err := Open(m.Path, m.Format, parents)
	if err != nil {
		return err
	}
	m.Info = image.Info()
	below := Parents(image)
	if err := image.Close(); err != nil {
		return err
	}
	if m.id, err = resolved(m.Path); err != nil {
		return err
	}
	m.Below = nil
	for _, path := range below {
		real, err := resolved(path)
		if err != nil {
			return err
		}
		m.Below = append(m.Below, real)
	}
	return nil
}

// resolved is one way to write the path of a file that is there.
func resolved(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil && runtime.GOOS == "windows" { // names differ there only by more than case
		real = strings.ToLower(real)
	}
	return real, err
}

// Parents are the files beneath an image, its own parent first.
func Parents(image *open.Disk) []string {
	var out []string
	for _, l := range image.Layers()[1:] {
		out = append(out, l.Path)
	}
	return out
}

// Leaves are the images that no other is laid on, of those that were probed. An image
// that is its own parent was refused when it was opened, so there is a leaf above
// every image.
func Leaves(found []Image) (out []Image) {
	laidOn := map[string]bool{}
	for _, m := range found {
		for _, path := range m.Below {
			laidOn[path] = true
		}
	}
	for _, m := range found {
		if !laidOn[m.id] {
			out = append(out, m)
		}
	}
	return out
}

// ID is what Below of those that are laid on the image calls it, once it was probed.
func (m *Image) ID() string { return m.id }

// OpenParent opens a file of a chain by a path that may lead over links inside the
// source's folder; [OpenFile] takes none.
func OpenParent(path string) (*os.File, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	return OpenFile(real)
}
