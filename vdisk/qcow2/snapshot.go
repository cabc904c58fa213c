package qcow2

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
)

// Snapshot is an internal snapshot of an image.
type Snapshot struct {
	ID, Name string
	Taken    time.Time
	Size     int64 // of the disk then; 0 where the image does not say, and it is as now
	VMState  int64 // bytes of the guest's memory and devices that are kept with it

	l1At   uint64
	l1Size uint32
}

// Limits of the snapshot table, which are QEMU's.
const (
	maxSnapshots     = 65536
	maxExtra         = 1024
	maxTable         = 64 << 20 // of all of it
	snapshotHeadSize = 40
)

// Snapshots lists the internal snapshots of a qcow2 file.
func Snapshots(file vdisk.Image) ([]Snapshot, error) {
	h, err := readHeader(file)
	var all []Snapshot
	if err == nil {
		all, err = readSnapshots(file, h)
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots of qcow2: %w", err)
	}
	return all, nil
}

func readSnapshots(file vdisk.Image, h header) ([]Snapshot, error) {
	if h.snapshots > maxSnapshots {
		return nil, vdisk.BadFormat("%d snapshots", h.snapshots)
	}
	var all []Snapshot
	at, size := h.snapshotsAt, uint64(file.Size())
	for i := range h.snapshots {
		if at > size || size-at < snapshotHeadSize {
			return nil, vdisk.Truncated("snapshot %d is at %d, file ends at %d", i, at, size)
		}
		b := make([]byte, snapshotHeadSize)
		if err := vdisk.ReadFull(file, b, int64(at)); err != nil {
			return nil, err
		}
		be := binary.BigEndian
		id, name, extra := be.Uint16(b[12:]), be.Uint16(b[14:]), be.Uint32(b[36:])
		if extra > maxExtra {
			return nil, vdisk.BadFormat("snapshot %d has %d bytes of extra data", i, extra)
		}
		rest := make([]byte, int(extra)+int(id)+int(name))
		if at-h.snapshotsAt+snapshotHeadSize+uint64(len(rest)) > maxTable {
			return nil, vdisk.Unsupported("a table of %d snapshots that has more than %d bytes; delete some of them (qemu-img snapshot -d)", h.snapshots, maxTable)
		}
		if size-at-snapshotHeadSize < uint64(len(rest)) {
			return nil, vdisk.Truncated("snapshot %d is at %d, file ends at %d", i, at, size)
		}
		if err := vdisk.ReadFull(file, rest, int64(at)+snapshotHeadSize); err != nil {
			return nil, err
		}
		s := Snapshot{
			l1At: be.Uint64(b), l1Size: be.Uint32(b[8:]), VMState: int64(be.Uint32(b[32:])),
			Taken: time.Unix(int64(be.Uint32(b[16:])), int64(be.Uint32(b[20:]))).UTC(),
			ID:    string(rest[extra:][:id]), Name: string(rest[extra:][id:]),
		}
		if extra >= 8 {
			s.VMState = int64(be.Uint64(rest) &^ (1 << 63))
		}
		if extra >= 16 {
			n := be.Uint64(rest[8:])
			if n > maxDiskSize {
				return nil, vdisk.Unsupported("snapshot %d of a disk of %d bytes", i, n)
			}
			s.Size = int64(n)
		}
		all = append(all, s)
		at += (snapshotHeadSize + uint64(len(rest)) + 7) / 8 * 8
	}
	return all, nil
}

func findSnapshot(file vdisk.Image, h header, which string) (Snapshot, error) {
	all, err := readSnapshots(file, h)
	if err != nil {
		return Snapshot{}, err
	}
	for _, s := range all {
		if s.ID == which {
			return s, nil
		}
	}
	for _, s := range all {
		if s.Name == which {
			return s, nil
		}
	}
	names := "none"
	if len(all) > 0 {
		names = strconv.Itoa(len(all)) + " others"
	}
	return Snapshot{}, fmt.Errorf("%w; there are %s", fs.ErrNotExist, names)
}
