package vhd

import (
	"context"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
)

// Image is the disk in a VHD file; it is a [vdisk.Image].
type Image struct {
	file   vdisk.Image
	footer footer
	size   int64
	header header      // of dynamic and differencing images
	table  *table      // nil in a fixed image
	parent vdisk.Image // of a differencing image
}

// Open reads the structures of a VHD file and checks all of them. The image
// reads from file, and from the parent that find gave, as long as it is used;
// there is nothing to close. A nil find is vdisk.NoParent.
func Open(file vdisk.Image, find vdisk.FindParent) (*Image, error) {
	m, err := open(file, find)
	if err != nil {
		return nil, fmt.Errorf("open VHD: %w", err)
	}
	return m, nil
}

func open(file vdisk.Image, find vdisk.FindParent) (*Image, error) {
	f, tail, err := readFooter(file)
	if err != nil {
		return nil, err
	}
	m := &Image{file: file, footer: f, size: int64(f.diskSize())}
	if f.kind == typeFixed {
		if m.size > file.Size()-tail {
			return nil, vdisk.Truncated("fixed disk of %d bytes, file has %d before its footer", m.size, file.Size()-tail)
		}
		return m, nil
	}
	if m.header, err = readHeader(file, f); err != nil {
		return nil, err
	}
	if m.table, err = newTable(file, f, m.header, file.Size()-tail); err != nil {
		return nil, err
	}
	if err := m.table.check(f); err != nil {
		return nil, err
	}
	if f.kind != typeDifferencing {
		return m, nil
	}
	p, err := m.header.parent(file)
	if err != nil {
		return nil, err
	}
	m.parent, err = vdisk.Below(find, p)
	return m, err
}

// ID is the id of the image in a file, by which its children name it. Nothing but
// the footer is read.
func ID(file vdisk.Image) (string, error) {
	f, _, err := readFooter(file)
	if err != nil {
		return "", fmt.Errorf("read id of VHD: %w", err)
	}
	return f.id.String(), nil
}

// Size is the size of the guest's disk.
func (m *Image) Size() int64 { return m.size }

// Info describes the image. Its id is also what children call it by.
func (m *Image) Info() vdisk.Info {
	variant := map[uint32]string{typeFixed: "fixed", typeDynamic: "dynamic", typeDifferencing: "differencing"}[m.footer.kind]
	return vdisk.Info{
		Format:         "vhd",
		Variant:        variant,
		VirtualSize:    m.size,
		LogicalSector:  sectorSize,
		PhysicalSector: sectorSize,
		BlockSize:      int64(m.header.blockSize),
		DiskID:         m.footer.id.String(),
		Link:           m.footer.id.String(),
	}
}

// ReadAt is io.ReaderAt on the guest's disk. What was never written reads as
// zeros, or as the parent's.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	return vdisk.ReadPieces(p, off, m.size, m.read)
}

// read reads a part of p that is in one piece, and returns its length.
func (m *Image) read(p []byte, off int64) (int, error) {
	t := m.table
	if t == nil {
		return len(p), vdisk.ReadFull(m.file, p, off)
	}
	b, err := t.block(off / t.blockSize)
	if err != nil {
		return 0, err
	}
	inside := off % t.blockSize
	here, n, err := t.run(b, inside, min(int64(len(p)), t.blockSize-inside))
	if err != nil {
		return 0, err
	}
	p = p[:n]
	switch {
	case here:
		err = vdisk.ReadFull(m.file, p, b.at+t.bitmapSize+inside)
	case m.parent != nil:
		err = vdisk.ReadBeneath(m.parent, p, off)
	default:
		clear(p)
	}
	return len(p), err
}

// Extents lists what was never written, and holes of the file, as zero, the
// rest as data; what a differencing image does not have is as in its parent.
func (m *Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Beneath(ctx, m.Own(ctx, from, to), m.parent, to)
}

// Own is Extents without the parent: what this image does not have is
// vdisk.Inherited.
func (m *Image) Own(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Runs(ctx, m.file, m.size, from, to, func(off, to int64) (vdisk.Run, error) {
		r, err := m.run(off, to)
		if err != nil {
			return r, fmt.Errorf("map VHD: %w", err)
		}
		return r, nil
	})
}

// elsewhere is what a sector is that this image does not have.
func (m *Image) elsewhere() vdisk.Kind {
	if m.parent != nil {
		return vdisk.Inherited
	}
	return vdisk.Zero
}

// run returns a stretch from off on, not beyond to: a run of one block's bitmap,
// or absent blocks up to the end of a page of the BAT.
func (m *Image) run(off, to int64) (vdisk.Run, error) {
	if m.table == nil {
		return vdisk.Run{Stored: true, At: off, Length: to - off}, nil
	}
	t := m.table
	number, inside := off/t.blockSize, off%t.blockSize
	b, err := t.block(number)
	if err != nil {
		return vdisk.Run{}, err
	}
	if b.present {
		here, n, err := t.run(b, inside, min(t.blockSize-inside, to-off))
		return vdisk.Run{Kind: m.elsewhere(), Stored: here, At: b.at + t.bitmapSize + inside, Length: n}, err
	}
	end := number + 1
	for ; end%pageEntries != 0 && end*t.blockSize < to; end++ {
		if next, err := t.place(b.page, end); err != nil {
			return vdisk.Run{}, err
		} else if next.present {
			break
		}
	}
	return vdisk.Run{Kind: m.elsewhere(), Length: min(end*t.blockSize, to) - off}, nil
}
