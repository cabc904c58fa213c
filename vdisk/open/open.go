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

// Options say how to open a file. The zero value opens by signature.
type Options struct {
	Format string // "" by signature, or "raw", "vhdx", "vhd", "qcow2"
}

// Disk is an open image together with its file. It is a vdisk.Image for many
// goroutines at once.
type Disk struct {
	vdisk.Image
	info vdisk.Info
	f    *os.File
}

// Info describes the image.
func (d *Disk) Info() vdisk.Info { return d.info }

// Close closes the file. No read may be under way.
func (d *Disk) Close() error { return d.f.Close() }

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
	file, err := raw.Open(f)
	if err != nil {
		return nil, err
	}
	format := o.Format
	if format == "" {
		if format, err = Probe(file, file.Size()); err != nil {
			return nil, fmt.Errorf("open image %s: %w", f.Name(), err)
		}
	}
	switch format {
	case "", "raw":
		return &Disk{Image: file, info: file.Info(), f: f}, nil
	case "vhdx":
		x, err := vhdx.Open(file, vdisk.NoParent)
		if err != nil {
			return nil, fmt.Errorf("open image %s: %w", f.Name(), err)
		}
		return &Disk{Image: x, info: x.Info(), f: f}, nil
	case "qcow2":
		x, err := qcow2.Open(file, vdisk.NoParent)
		if err != nil {
			return nil, fmt.Errorf("open image %s: %w", f.Name(), err)
		}
		return &Disk{Image: x, info: x.Info(), f: f}, nil
	case "vhd":
		x, err := vhd.Open(file, vdisk.NoParent)
		if err != nil {
			return nil, fmt.Errorf("open image %s: %w", f.Name(), err)
		}
		return &Disk{Image: x, info: x.Info(), f: f}, nil
	}
	return nil, fmt.Errorf("open image %s: %w: format %s", f.Name(), vdisk.ErrUnsupported, format)
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
