package read

import (
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
	begin     func(f vdisk.File, size int64, now time.Time) (restore.Image, error) // nil: raw
}

func forms() []form {
	ofVHD := func(fixed bool) func(vdisk.File, int64, time.Time) (restore.Image, error) {
		return func(f vdisk.File, size int64, now time.Time) (restore.Image, error) {
			return vhd.NewWriter(f, size, vhd.CreateOptions{Fixed: fixed, Time: now})
		}
	}
	ofVHDX := func(fixed bool) func(vdisk.File, int64, time.Time) (restore.Image, error) {
		return func(f vdisk.File, size int64, _ time.Time) (restore.Image, error) {
			return create.NewWriter(f, size, create.Options{Fixed: fixed})
		}
	}
	ofQcow2 := func(f vdisk.File, size int64, _ time.Time) (restore.Image, error) {
		return qcow2.NewWriter(f, size, qcow2.CreateOptions{})
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
func (f *form) image(now time.Time) func(vdisk.File, int64) (restore.Image, error) {
	if f.begin == nil {
		return nil
	}
	return func(file vdisk.File, size int64) (restore.Image, error) { return f.begin(file, size, now) }
}

// like is the form that the image of a disk had, to write it again as it was.
func like(now time.Time) func(events.PointDisk) (func(vdisk.File, int64) (restore.Image, error), error) {
	return func(d events.PointDisk) (func(vdisk.File, int64) (restore.Image, error), error) {
		fixed := d.Variant == "fixed"
		switch d.Format {
		case "raw":
			return nil, nil
		case "vhdx":
			return func(f vdisk.File, size int64) (restore.Image, error) {
				return create.NewWriter(f, size, create.Options{BlockSize: d.BlockSize, LogicalSector: d.Sector, PhysicalSector: d.PhysicalSector, Fixed: fixed})
			}, nil
		case "vhd":
			return func(f vdisk.File, size int64) (restore.Image, error) {
				return vhd.NewWriter(f, size, vhd.CreateOptions{Fixed: fixed, Time: now})
			}, nil
		case "qcow2":
			return func(f vdisk.File, size int64) (restore.Image, error) {
				return qcow2.NewWriter(f, size, qcow2.CreateOptions{})
			}, nil
		}
		return nil, fmt.Errorf("%w: format %s", vdisk.ErrUnsupported, d.Format)
	}
}
