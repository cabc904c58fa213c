package read

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/vhd"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

// form is what a restored disk can be written as.
type form struct {
	name, ext string
	begin     func(f vdisk.File, d events.PointDisk, now time.Time) (restore.Image, error) // nil: raw
}

// sector is the size of a disk's logical sectors. Points of old do not say it.
func sector(d events.PointDisk) int { return cmp.Or(d.Sector, 512) }

func forms() []form {
	ofVHD := func(fixed bool) func(vdisk.File, events.PointDisk, time.Time) (restore.Image, error) {
		return func(f vdisk.File, d events.PointDisk, now time.Time) (restore.Image, error) {
			if s := sector(d); s != 512 {
				return nil, fmt.Errorf("%w: a VHD has sectors of 512 bytes and this disk of %d, so its guest could not read it; use vhdx or raw", vdisk.ErrUnsupported, s)
			}
			return vhd.NewWriter(f, d.Size, vhd.CreateOptions{Fixed: fixed, Time: now})
		}
	}
	ofVHDX := func(fixed bool) func(vdisk.File, events.PointDisk, time.Time) (restore.Image, error) {
		return func(f vdisk.File, d events.PointDisk, _ time.Time) (restore.Image, error) {
			o := create.Options{Fixed: fixed, LogicalSector: sector(d)}
			if d.Format == "vhdx" { // others do not know
				o.PhysicalSector = d.PhysicalSector
			}
			return create.NewWriter(f, d.Size, o)
		}
	}
	// The format does not say how large sectors are: QEMU is told, as for a raw disk.
	ofQcow2 := func(f vdisk.File, d events.PointDisk, _ time.Time) (restore.Image, error) {
		return qcow2.NewWriter(f, d.Size, qcow2.CreateOptions{})
	}
	return []form{
		{"raw", ".raw", nil},
		{"vhdx", ".vhdx", ofVHDX(false)}, {"vhdx-fixed", ".vhdx", ofVHDX(true)},
		{"vhd", ".vhd", ofVHD(false)}, {"vhd-fixed", ".vhd", ofVHD(true)},
		{"qcow2", ".qcow2", ofQcow2},
	}
}

// formOf returns the form of a name, or nil.
func formOf(name string) *form {
	for _, f := range forms() {
		if f.name == name {
			return &f
		}
	}
	return nil
}

func formNames() string {
	var all []string
	for _, f := range forms() {
		all = append(all, f.name)
	}
	return strings.Join(all, ", ")
}

// image is what restore.RawOptions want of a form.
func (f *form) image(now time.Time) func(vdisk.File, events.PointDisk) (restore.Image, error) {
	if f.begin == nil {
		return nil
	}
	return func(file vdisk.File, d events.PointDisk) (restore.Image, error) { return f.begin(file, d, now) }
}

// like is the form that the image of a disk had, to write it again as it was.
func like(now time.Time) func(events.PointDisk) (func(vdisk.File, events.PointDisk) (restore.Image, error), error) {
	return func(d events.PointDisk) (func(vdisk.File, events.PointDisk) (restore.Image, error), error) {
		fixed := d.Variant == "fixed"
		switch d.Format {
		case "raw":
			return nil, nil
		case "vhdx":
			return func(f vdisk.File, d events.PointDisk) (restore.Image, error) {
				return create.NewWriter(f, d.Size, create.Options{BlockSize: d.BlockSize, LogicalSector: d.Sector, PhysicalSector: d.PhysicalSector, Fixed: fixed})
			}, nil
		case "vhd":
			return func(f vdisk.File, d events.PointDisk) (restore.Image, error) {
				return vhd.NewWriter(f, d.Size, vhd.CreateOptions{Fixed: fixed, Time: now})
			}, nil
		case "qcow2":
			return func(f vdisk.File, d events.PointDisk) (restore.Image, error) {
				return qcow2.NewWriter(f, d.Size, qcow2.CreateOptions{})
			}, nil
		}
		return nil, fmt.Errorf("%w: format %s", vdisk.ErrUnsupported, d.Format)
	}
}
