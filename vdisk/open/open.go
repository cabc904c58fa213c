// Package open opens a disk image by what is in it.
//
// Call [Path] or [File]. The format is told by the file's signature, never by
// its name: a file without a known signature is a raw image. [Probe] tells
// the signature alone.
//
// A guest can write any bytes into its own raw disk, the signature of a disk
// format included. Who knows that a file is raw says so ([Options].Format);
// otherwise such a disk is refused or misread, though never read outside its
// own file. Formats that are known but not readable (VMDK, VDI, QED)
// are refused with vdisk.ErrUnsupported: the container's bytes are not the
// guest's disk.
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

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/raw"
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
	f, err := os.Open(path)
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
	m, info, err := image(f, o.Format, parents.Find)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open image %s: %w", f.Name(), err), parents.Close())
	}
	return &Disk{Image: m, info: info, f: f, parents: parents}, nil
}

// image opens what is in f.
func image(f *os.File, format string, find vdisk.FindParent) (vdisk.Image, vdisk.Info, error) {
	file, err := raw.Open(f)
	if err != nil {
		return nil, vdisk.Info{}, err
	}
	if format == "" {
		if format, err = Probe(file, file.Size()); err != nil {
			return nil, vdisk.Info{}, err
		}
	}
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
		err = fmt.Errorf("%w: format %s", vdisk.ErrUnsupported, format)
	}
	if err != nil {
		return nil, vdisk.Info{}, err
	}
	return m, m.Info(), nil
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
