// Package open opens a disk image by what is in it.
//
// Call [Path] or [File]. The format is told by the file's signature, never by
// its name: a file without a known signature is a raw image, or refused. [Probe] tells
// the signature alone.
//
// A guest can write any bytes into its own raw disk, the signature of a disk
// format included. Who knows that a file is raw says so ([Options].Format);
// otherwise such a disk is refused or misread, though never read outside its
// own file. Formats that are known but not readable (VMDK, VDI, QED)
// are refused with vdisk.ErrUnsupported: the container's bytes are not the
// guest's disk. So are files whose names promise one of these, or a shared VHD
// set, and that have no signature ([Foreign]).
//
// A differencing image is opened with its parents, down to the image that has
// none, if the caller allows the folders that they are in ([Options].Parents):
// [FindParents] says how they are looked for. A file's word on where its parent is
// leads nowhere else. The chain must have an end, and the ids must fit.
package open

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/raw"
	"github.com/millrace-backup/millrace/vdisk/regular"
	"github.com/millrace-backup/millrace/vdisk/vhd"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
)

// Options say how to open a file. The zero value opens by signature, and single
// images only.
type Options struct {
	Format string // "" by signature, or "raw", "vhdx", "vhd", "qcow2"
	// Parents are the folders in and below which parents of a differencing image may
	// be. Without any, such an image is refused.
	Parents []string
}

// Disk is an open image together with its file, and those of its parents. It is a
// vdisk.Image for many goroutines at once.
type Disk struct {
	vdisk.Image
	info    vdisk.Info
	f       *os.File
	parents *Parents
}

// Info describes the image.
func (d *Disk) Info() vdisk.Info { return d.info }

// Layers are the images of a chain, the one that was opened first and its oldest
// parent last.
func (d *Disk) Layers() []Layer {
	return append([]Layer{{d.f.Name(), d.info, d.Image}}, d.parents.Layers()...)
}

// Close closes the files. No read may be under way.
func (d *Disk) Close() error { return errors.Join(d.f.Close(), d.parents.Close()) }

// Path opens the image at path for reading.
func Path(path string, o Options) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|regular.NoWait, 0)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	d, err := File(f, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// File opens the image in f, which must be open for reading. The Disk takes f
// over; when File fails, f is still the caller's to close.
func File(f *os.File, o Options) (*Disk, error) {
	parents := FindParents(f.Name(), o.Parents...)
	d, err := open(f, o.Format, parents)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open image %s: %w", f.Name(), err), parents.Close())
	}
	return d, nil
}

func open(f *os.File, format string, parents *Parents) (*Disk, error) {
	file, err := raw.Open(f)
	if err != nil {
		return nil, err
	}
	signature, err := Probe(file, file.Size())
	if err != nil {
		return nil, err
	}
	said := format
	if format == "" {
		format = signature
		if reason := Foreign(f.Name()); reason != "" && format == "" {
			return nil, vdisk.Unsupported("%s", reason)
		}
	}
	m, info, err := image(file, format, parents.Find)
	switch {
	case err == nil:
		return &Disk{Image: m, info: info, f: f, parents: parents}, nil
	case said != "" && signature != "" && signature != said && errors.Is(err, vdisk.ErrFormat):
		return nil, fmt.Errorf("%w (its signature is that of %s, its name or an option says %s: give it the right name)", err, signature, said)
	case errors.Is(err, vdisk.ErrFormat), errors.Is(err, vdisk.ErrTruncated):
		return nil, fmt.Errorf("%w; take the file from another copy, or let the program that made it repair it", err)
	}
	return nil, err
}

// image opens what is in a file.
func image(file *raw.Image, format string, find vdisk.FindParent) (vdisk.Image, vdisk.Info, error) {
	var err error
	var m interface {
		vdisk.Image
		Info() vdisk.Info
	}
	switch format {
	case "", "raw":
		m = file
	case "vhdx":
		m, err = vhdx.Open(file, find)
	case "qcow2":
		m, err = qcow2.Open(file, find)
	case "vhd":
		m, err = vhd.Open(file, find)
	default:
		err = vdisk.Unsupported("format %s; convert it to one of raw, vhdx, vhd and qcow2 (qemu-img convert -O vhdx)", format)
	}
	if err != nil {
		return nil, vdisk.Info{}, err
	}
	return m, m.Info(), nil
}

// Foreign says why a file without a signature cannot be a disk, by its name, and
// what to do; it is empty for all names that do not promise a format which is not
// read here.
func Foreign(path string) string {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".vmdk", ".vdi", ".qed":
		return "its name promises " + ext[1:] + ", but it has no such signature and is not readable; to back it up as a raw disk, rename it to .raw"
	case ".vhds":
		return "its name is that of a shared VHD set: it only says which .avhdx files beside it are the disk, in a form that is not published; " +
			"let the Hyper-V host make a .vhdx of it and back that up"
	}
	return ""
}

// signatures lists what formats have at the beginning of a file.
func signatures() []struct{ format, magic string } {
	return []struct{ format, magic string }{
		{"vhdx", "vhdxfile"},
		{"qcow2", "QFI\xfb"},
		{"vhd", "conectix"}, // dynamic and differencing VHD repeat their footer at 0
		{"vmdk", "KDMV"},
		{"vmdk", "COWD"},
		{"vmdk", "# Disk DescriptorFile"},
		{"qed", "QED\x00"},
		{"vdi", "<<< "},
	}
}

// Probe tells the format of a file of the given size by its signature: "vhdx",
// "qcow2", "vhd", "vmdk", "qed", "vdi", or "" when it has none of these.
func Probe(r io.ReaderAt, size int64) (string, error) {
	var head [24]byte
	n, err := r.ReadAt(head[:min(int64(len(head)), size)], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read signature: %w", err)
	}
	for _, s := range signatures() {
		if bytes.HasPrefix(head[:n], []byte(s.magic)) {
			return s.format, nil
		}
	}
	// A fixed VHD has its footer in the last sector only; very old ones are a
	// byte short.
	const footer = 512
	for _, at := range []int64{size - footer, size - footer + 1} {
		if at < 0 {
			continue
		}
		n, err := r.ReadAt(head[:len("conectix")], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read footer: %w", err)
		}
		if string(head[:n]) == "conectix" {
			return "vhd", nil
		}
	}
	return "", nil
}
