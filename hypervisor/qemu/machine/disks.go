package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
	"github.com/millrace-backup/millrace/vdisk"
)

// Monitor is a conversation with QEMU, in our words.
type Monitor struct {
	*qmp.Client
	PID int // of QEMU; 0: unknown
}

type Args map[string]any

// Device is a guest's device with the medium it has, as QEMU tells.
type Device struct {
	Key         string // its drive's name, or its own
	QDev        string // its path in the object model
	Node        string // the node that it has as its medium, Ours if it is frozen
	Driver      string // of that node: raw, qcow2, ...
	File        string // of the medium, for people
	Info        vdisk.Info
	Bitmaps     []Bitmap
	Firmware    bool // it is no disk but a flash memory of the machine
	ReadOnly    bool
	Unprotected string // why it is not backed up; empty: it is
}

type Bitmap struct {
	Name         string
	Granularity  int64
	Count        int64 // bytes
	Recording    bool
	Busy         bool
	Persistent   bool
	Inconsistent bool
}

// medium is an element of what query-block answers.
type medium struct {
	Device   string
	QDev     string
	Inserted *struct {
		Node    string `json:"node-name"`
		RO      bool   `json:"ro"`
		Driver  string `json:"drv"`
		File    string
		Bitmaps []Bitmap `json:"dirty-bitmaps"`
		Image   struct {
			Format      string
			VirtualSize int64 `json:"virtual-size"`
			Cluster     int64 `json:"cluster-size"`
			Snapshots   []struct{ ID string }
		}
	}
}

// maxDisk is the largest disk that is believed in.
const maxDisk = 1 << 56

// Disks lists the guest's devices with media, in the order of their names.
func (m *Monitor) Disks(ctx context.Context) ([]Device, error) {
	var media []medium
	if err := m.Do(ctx, "query-block", nil, &media); err != nil {
		return nil, err
	}
	var out []Device
	for i := range media {
		if media[i].Inserted == nil {
			continue // an empty drive
		}
		d := deviceOf(&media[i])
		if d.Unprotected == "" {
			var err error
			if d.Info.LogicalSector, d.Info.PhysicalSector, err = m.sectors(ctx, d.QDev); err != nil {
				return nil, fmt.Errorf("disk %s: %w", d.Key, err)
			}
		}
		out = append(out, d)
	}
	slices.SortStableFunc(out, func(a, b Device) int { return cmp.Compare(a.Key, b.Key) })
	return out, nil
}

func deviceOf(b *medium) Device {
	d := Device{Key: b.Device, QDev: b.QDev}
	if d.Key == "" {
		d.Key = nameOf(b.QDev)
	}
	in := b.Inserted
	if d.Key == "" {
		d.Key = in.Node
	}
	d.Node, d.Driver, d.File, d.Bitmaps, d.ReadOnly = in.Node, in.Driver, in.File, in.Bitmaps, in.RO
	d.Firmware = strings.HasPrefix(d.Key, "pflash") || strings.Contains(b.QDev, "/pflash")
	d.Info = vdisk.Info{Format: in.Image.Format, VirtualSize: in.Image.VirtualSize, BlockSize: in.Image.Cluster, Snapshots: len(in.Image.Snapshots)}
	switch {
	case d.Firmware:
		d.Unprotected = "the machine's firmware"
	case in.RO:
		d.Unprotected = "the guest cannot write to it"
	case b.QDev == "":
		d.Unprotected = "no device of the guest has it"
	case d.Info.VirtualSize <= 0 || d.Info.VirtualSize > maxDisk:
		d.Unprotected = fmt.Sprintf("it has %d bytes", d.Info.VirtualSize)
	}
	return d
}

// nameOf is the id of the device that an object is or is part of, such as disk0 of
// /machine/peripheral/disk0/virtio-backend. Devices without an id have places that do
// not last.
func nameOf(qdev string) string {
	rest, ok := strings.CutPrefix(qdev, "/machine/peripheral/")
	if !ok {
		return strings.TrimPrefix(qdev, "/machine/")
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// sectors asks for the sizes that the guest sees. A device that has no such
// properties has sectors of 512.
func (m *Monitor) sectors(ctx context.Context, qdev string) (logical, physical int, err error) {
	for name, to := range map[string]*int{"logical_block_size": &logical, "physical_block_size": &physical} {
		*to = 512
		err := m.Do(ctx, "qom-get", Args{"path": qdev, "property": name}, to)
		var refused *qmp.Error
		if err != nil && !errors.As(err, &refused) {
			return 0, 0, err
		}
		if *to < 512 || *to > 1<<20 || *to&(*to-1) != 0 {
			*to = 512
		}
	}
	return logical, physical, nil
}
