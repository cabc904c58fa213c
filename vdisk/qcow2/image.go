package qcow2

import (
	"context"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
)

// Image is the disk in a qcow2 file; it is a [vdisk.Image].
type Image struct {
	file    vdisk.Image
	header  header
	table   *table
	inflate *inflater
	parent  vdisk.Image // nil without a backing file
}

// Open reads the header and the L1 table of a qcow2 file and checks them. The
// image reads from file, and from the backing file that find gave, as long as it
// is used; there is nothing to close. A nil find is vdisk.NoParent.
func Open(file vdisk.Image, find vdisk.FindParent) (*Image, error) {
	m, err := open(file, find, "")
	if err != nil {
		return nil, fmt.Errorf("open qcow2: %w", err)
	}
	return m, nil
}

// OpenSnapshot is Open for the disk as it was at an internal snapshot, which is
// named by its id or its name; an id goes before a name. The state of the
// guest's memory, if the snapshot has it, is not read.
func OpenSnapshot(file vdisk.Image, find vdisk.FindParent, snapshot string) (*Image, error) {
	m, err := open(file, find, snapshot)
	if err != nil {
		return nil, fmt.Errorf("open snapshot %q of qcow2: %w", snapshot, err)
	}
	return m, nil
}

func open(file vdisk.Image, find vdisk.FindParent, snapshot string) (*Image, error) {
	h, err := readHeader(file)
	if err != nil {
		return nil, err
	}
	at, entries := h.l1At, h.l1Size
	if snapshot != "" {
		s, err := findSnapshot(file, h, snapshot)
		if err != nil {
			return nil, err
		}
		at, entries = s.l1At, s.l1Size
		if s.Size > 0 {
			h.size = s.Size
		}
	}
	m := &Image{file: file, header: h}
	if m.table, err = newTable(file, h, at, entries); err != nil {
		return nil, err
	}
	m.inflate = newInflater(file, h)
	if h.backing == "" {
		return m, nil
	}
	p, err := h.parent()
	if err != nil {
		return nil, err
	}
	m.parent, err = vdisk.Below(find, p)
	return m, err
}

// TableSize is how many bytes of a file's tables Open holds in memory whatever is
// read later. Nothing but the header is read.
func TableSize(file vdisk.Image) (int64, error) {
	h, err := readHeader(file)
	if err != nil {
		return 0, fmt.Errorf("read header of qcow2: %w", err)
	}
	return min(int64(h.l1Size)*8, maxL1), nil
}

// Size is the size of the guest's disk.
func (m *Image) Size() int64 { return m.header.size }

// Info describes the image. The format has no ids.
func (m *Image) Info() vdisk.Info {
	variant := ""
	if m.parent != nil {
		variant = "differencing"
	}
	return vdisk.Info{
		Format:         "qcow2",
		Variant:        variant,
		VirtualSize:    m.header.size,
		LogicalSector:  512,
		PhysicalSector: 512,
		BlockSize:      m.table.clusterSize,
		Snapshots:      int(m.header.snapshots),
	}
}

// ReadAt is io.ReaderAt on the guest's disk. What was never written reads as
// zeros, or as the backing file's.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	return vdisk.ReadPieces(p, off, m.header.size, m.read)
}

// read reads a part of p that is stored in one way, and returns its length.
func (m *Image) read(p []byte, off int64) (int, error) {
	r, err := m.table.run(off, off+int64(len(p)))
	if err != nil {
		return 0, err
	}
	p = p[:r.length]
	switch {
	case r.kind == stored:
		err = vdisk.ReadFull(m.file, p, r.at)
	case r.kind == compressed:
		err = m.inflate.read(p, off, uint64(r.at))
	case r.kind == absent && m.parent != nil:
		err = vdisk.ReadBeneath(m.parent, p, off)
	default:
		clear(p)
	}
	return len(p), err
}

// Extents lists clusters that are zero or were never written, and holes of the
// file, as zero, the rest as data; what the image does not have is as in its
// backing file.
func (m *Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Beneath(ctx, m.Own(ctx, from, to), m.parent, to)
}

// Own is Extents without the backing file: what this image does not have is
// vdisk.Inherited.
func (m *Image) Own(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Runs(ctx, m.file, m.header.size, from, to, func(off, to int64) (vdisk.Run, error) {
		r, err := m.table.run(off, to)
		if err != nil {
			return vdisk.Run{}, fmt.Errorf("map qcow2: %w", err)
		}
		return vdisk.Run{Kind: m.kind(r.kind), Length: r.length, Stored: r.kind == stored, At: r.at}, nil
	})
}

func (m *Image) kind(k kind) vdisk.Kind {
	switch {
	case k == compressed:
		return vdisk.Data
	case k == absent && m.parent != nil:
		return vdisk.Inherited
	}
	return vdisk.Zero
}
