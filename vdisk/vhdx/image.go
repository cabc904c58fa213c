package vhdx

import (
	"context"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/vhdx/journal"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// eagerPages of the BAT are checked by Open, 4 MiB: that is all of it for 16 TiB
// in blocks of 32 MiB.
const eagerPages = 64

// Image is the disk in a VHDX file; it is a [vdisk.Image].
type Image struct {
	v       *overlay.Image
	header  layout.Header
	regions layout.Regions
	meta    layout.Metadata
	table   *table
	parent  vdisk.Image // of a differencing image
}

// Open reads the structures of a VHDX file and checks them. The image reads from
// file, and from the parent that find gave, as long as it is used; there is
// nothing to close. A nil find is vdisk.NoParent.
func Open(file vdisk.Image, find vdisk.FindParent) (*Image, error) {
	m, err := open(file)
	if err == nil && m.meta.HasParent {
		err = m.link(find)
	}
	if err != nil {
		return nil, fmt.Errorf("open VHDX: %w", err)
	}
	return m, nil
}

func open(file vdisk.Image) (*Image, error) {
	if file.Size() > layout.MaxFileSize {
		return nil, vdisk.Unsupported("file of %d bytes, at most %d are read", file.Size(), layout.MaxFileSize)
	}
	m := &Image{}
	var err error
	if m.header, err = layout.ReadHeader(file); err != nil {
		return nil, err
	}
	changes, err := journal.Read(file, m.header)
	if err != nil {
		return nil, err
	}
	// From here on everything is read as if the log had been replayed.
	m.v = overlay.New(file, changes.Size, changes.Patches)
	if m.regions, err = layout.ReadRegions(m.v); err != nil {
		return nil, err
	}
	if m.meta, err = layout.ReadMetadata(m.v, m.regions.Metadata); err != nil {
		return nil, err
	}
	if m.table, err = newTable(m.v, m.regions.BAT, m.meta); err != nil {
		return nil, err
	}
	c, err := m.claimStructures()
	if err != nil {
		return nil, err
	}
	pages, err := m.table.survey(context.Background())
	if err != nil {
		return nil, err
	}
	return m, m.table.check(context.Background(), pages[:min(len(pages), eagerPages)], c)
}

// claimStructures takes the places of all parts of the file other than blocks.
func (m *Image) claimStructures() (*claims, error) {
	c := new(claims)
	c.taken.claim(0, layout.MiB)
	parts := append([]layout.Region{{ID: "log", Offset: m.header.LogOffset, Length: m.header.LogLength}}, m.regions.All...)
	for _, p := range parts {
		if p.Offset+p.Length > m.v.Size() {
			return nil, vdisk.Truncated("region %s has %d bytes at %d, file ends at %d", p.ID, p.Length, p.Offset, m.v.Size())
		}
		if !c.taken.claim(p.Offset, p.Length) {
			return nil, vdisk.BadFormat("region %s at %d overlaps another structure", p.ID, p.Offset)
		}
	}
	return c, nil
}

// link finds the parent. Sections 2.6.2.6 and 2.6.2.4.
func (m *Image) link(find vdisk.FindParent) error {
	var err error
	if m.parent, err = vdisk.Below(find, m.meta.Locator.Parent()); err != nil {
		return err
	}
	if d, ok := m.parent.(interface{ Info() vdisk.Info }); ok && d.Info().LogicalSector != m.meta.LogicalSector {
		return vdisk.BadFormat("logical sectors of %d bytes on a parent that has %d; this is not the disk that the child was made on", m.meta.LogicalSector, d.Info().LogicalSector)
	}
	return nil
}

// Free checks the whole table, which Open does for tables of up to 4 MiB only:
// every block is in the file, and no two structures share a byte. It returns the
// stretches of the file that nothing lies on, in order, at most limit of them. It
// costs memory for a bit of each MiB of the file.
func (m *Image) Free(ctx context.Context, limit int) ([]vdisk.Extent, error) {
	c, err := m.claimStructures()
	if err != nil {
		return nil, fmt.Errorf("check VHDX: %w", err)
	}
	pages, err := m.table.survey(ctx)
	if err == nil {
		err = m.table.check(ctx, pages, c)
	}
	if err != nil {
		return nil, fmt.Errorf("check VHDX: %w", err)
	}
	return c.free(m.v.Size(), limit), nil
}

// Check is Free for who wants to know only whether the image is sound.
func (m *Image) Check(ctx context.Context) error {
	_, err := m.Free(ctx, 0)
	return err
}

// Pending is what the log has to change in the file, in order and without overlap,
// and the size that the file has then. There is nothing to change when the log is
// empty.
func (m *Image) Pending() (changes []overlay.Patch, size int64) {
	return m.v.Patches(), m.v.Size()
}

// Size is the size of the guest's disk.
func (m *Image) Size() int64 { return m.meta.DiskSize }

// Info describes the image.
func (m *Image) Info() vdisk.Info {
	variant := "dynamic"
	switch {
	case m.meta.HasParent:
		variant = "differencing"
	case m.meta.Fixed:
		variant = "fixed"
	}
	return vdisk.Info{
		Format:         "vhdx",
		Variant:        variant,
		VirtualSize:    m.meta.DiskSize,
		LogicalSector:  m.meta.LogicalSector,
		PhysicalSector: m.meta.PhysicalSector,
		BlockSize:      m.meta.BlockSize,
		DiskID:         m.meta.DiskID.String(),
		Link:           m.header.DataWrite.String(),
	}
}

// ReadAt is io.ReaderAt on the guest's disk. Blocks that are not present read
// as zeros, or as the parent's.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	return vdisk.ReadPieces(p, off, m.meta.DiskSize, m.read)
}

// read reads a part of p that is in one piece, and returns its length.
func (m *Image) read(p []byte, off int64) (int, error) {
	block, inside := off/m.meta.BlockSize, off%m.meta.BlockSize
	p = p[:min(int64(len(p)), m.meta.BlockSize-inside)]
	at, err := m.table.block(block)
	if err != nil {
		return 0, err
	}
	if at.part {
		here, n, err := m.table.bitmap.run(block, inside, int64(len(p)))
		if err != nil {
			return 0, err
		}
		p = p[:n]
		if !here {
			at.kind = vdisk.Inherited
		}
	}
	switch at.kind {
	case vdisk.Data:
		err = vdisk.ReadFull(m.v, p, at.at+inside)
	case vdisk.Inherited:
		err = vdisk.ReadBeneath(m.parent, p, off)
	default:
		clear(p)
	}
	return len(p), err
}

// Extents lists absent blocks and holes of the file as zero, the rest as data;
// what a differencing image does not have is as in its parent.
func (m *Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Beneath(ctx, m.Own(ctx, from, to), m.parent, to)
}

// Own is Extents without the parent: what this image does not have is
// vdisk.Inherited.
func (m *Image) Own(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Runs(ctx, m.v, m.meta.DiskSize, from, to, func(off, to int64) (vdisk.Run, error) {
		r, err := m.run(off, to)
		if err != nil {
			return vdisk.Run{}, fmt.Errorf("map VHDX: %w", err)
		}
		return vdisk.Run{Kind: r.kind, Length: r.length, Stored: r.kind == vdisk.Data, At: r.at}, nil
	})
}

// run is a stretch of the disk that is of one kind, and Data in one piece of the
// file from at on.
type run struct {
	kind   vdisk.Kind
	at     int64
	length int64
}

// run returns a stretch from off on, not beyond to nor, so that the caller gets
// to look at its context, beyond one page of the BAT.
func (m *Image) run(off, to int64) (run, error) {
	t := m.table
	block, inside := off/t.BlockSize, off%t.BlockSize
	nextPage := t.BlockAt((t.Index(block)/layout.PageEntries + 1) * layout.PageEntries)
	first, err := t.block(block)
	if err != nil {
		return run{}, err
	}
	r := run{kind: first.kind, at: first.at + inside}
	if first.part {
		here, n, err := t.bitmap.run(block, inside, min(t.BlockSize-inside, to-off))
		if !here {
			r.kind = vdisk.Inherited
		}
		r.length = n
		return r, err
	}
	end := nextPage
	if !t.empty(block) {
		if end, err = t.alike(block, min(nextPage, (to+t.BlockSize-1)/t.BlockSize)); err != nil {
			return run{}, err
		}
	}
	r.length = min(end*t.BlockSize, to) - off
	return r, nil
}
