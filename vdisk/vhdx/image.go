package vhdx

import (
	"context"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
)

// Image is the disk in a VHDX file; it is a [vdisk.Image].
type Image struct {
	v     *overlay.Image
	meta  metadata
	table *table
}

// Open reads the structures of a VHDX file and checks all of them. The image
// reads from file as long as it is used; there is nothing to close.
func Open(file vdisk.Image) (*Image, error) {
	m, err := open(file)
	if err != nil {
		return nil, fmt.Errorf("open VHDX: %w", err)
	}
	return m, nil
}

func open(file vdisk.Image) (*Image, error) {
	if file.Size() > maxFileSize {
		return nil, unsupported("file of %d bytes", file.Size())
	}
	h, err := readHeader(file)
	if err != nil {
		return nil, err
	}
	// From here on everything is read as if the log had been replayed.
	v, err := readLog(file, h)
	if err != nil {
		return nil, err
	}
	r, err := readRegions(v)
	if err != nil {
		return nil, err
	}
	m, err := readMetadata(v, r.metadata)
	if err != nil {
		return nil, err
	}
	if m.hasParent {
		return nil, unsupported("differencing image, its parent is needed to read it")
	}
	t, err := newTable(v, r.bat, m)
	if err != nil {
		return nil, err
	}
	c, err := claimStructures(v, h, r)
	if err != nil {
		return nil, err
	}
	if err := t.check(c); err != nil {
		return nil, err
	}
	return &Image{v: v, meta: m, table: t}, nil
}

// claimStructures takes the places of all parts of the file other than blocks.
func claimStructures(v *overlay.Image, h header, r regions) (*claims, error) {
	c := new(claims)
	c.claim(0, mib)
	parts := append([]region{{id: "log", offset: h.logOffset, length: h.logLength}}, r.all...)
	for _, p := range parts {
		if p.offset+p.length > v.Size() {
			return nil, truncated("region %s has %d bytes at %d, file ends at %d", p.id, p.length, p.offset, v.Size())
		}
		if !c.claim(p.offset, p.length) {
			return nil, badFormat("region %s at %d overlaps another structure", p.id, p.offset)
		}
	}
	return c, nil
}

// Size is the size of the guest's disk.
func (m *Image) Size() int64 { return m.meta.diskSize }

// Info describes the image.
func (m *Image) Info() vdisk.Info {
	variant := "dynamic"
	if m.meta.fixed {
		variant = "fixed"
	}
	return vdisk.Info{
		Format:         "vhdx",
		Variant:        variant,
		VirtualSize:    m.meta.diskSize,
		LogicalSector:  m.meta.logicalSector,
		PhysicalSector: m.meta.physicalSector,
		BlockSize:      m.meta.blockSize,
		DiskID:         m.meta.diskID.String(),
	}
}

// ReadAt is io.ReaderAt on the guest's disk. Blocks that are not present read
// as zeros.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	in, end := vdisk.Window(p, off, m.meta.diskSize)
	done := 0
	for done < len(in) {
		block, inside := (off+int64(done))/m.meta.blockSize, (off+int64(done))%m.meta.blockSize
		part := in[done:min(int64(len(in)), int64(done)+m.meta.blockSize-inside)]
		at, present, err := m.table.block(block)
		if err != nil {
			return done, fmt.Errorf("read VHDX at %d: %w", off+int64(done), err)
		}
		if !present {
			clear(part)
		} else if err := readFull(m.v, part, at+inside); err != nil {
			return done, fmt.Errorf("read VHDX block %d: %w", block, err)
		}
		done += len(part)
	}
	return done, end
}

// Extents lists absent blocks and holes of the file as zero, the rest as data.
func (m *Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		err := vdisk.CheckRange(m.meta.diskSize, from, to)
		for off := from; err == nil && off < to; {
			if err = ctx.Err(); err != nil {
				break
			}
			var r run
			if r, err = m.run(off, to); err != nil {
				break
			}
			if !r.present {
				if !yield(vdisk.Extent{Offset: off, Length: r.length, Kind: vdisk.Zero}, nil) {
					return
				}
			}
			for e, mapErr := range m.stored(ctx, r) {
				if err = mapErr; err != nil {
					break
				}
				if !yield(vdisk.Extent{Offset: off + e.Offset - r.at, Length: e.Length, Kind: e.Kind}, nil) {
					return
				}
			}
			off += r.length
		}
		if err != nil {
			yield(vdisk.Extent{}, fmt.Errorf("map VHDX: %w", err))
		}
	})
}

// stored maps the bytes of the file that a run lies on; none when it is absent.
func (m *Image) stored(ctx context.Context, r run) iter.Seq2[vdisk.Extent, error] {
	if !r.present {
		return func(func(vdisk.Extent, error) bool) {}
	}
	return m.v.Extents(ctx, r.at, r.at+r.length)
}

// run is a stretch of the disk that is absent, or that lies in the file in one
// piece from at on.
type run struct {
	present bool
	at      int64
	length  int64
}

// run returns the longest stretch from off on, not beyond to nor, so that the
// caller gets to look at its context, beyond one page of the BAT.
func (m *Image) run(off, to int64) (run, error) {
	t := m.table
	block, inside := off/t.blockSize, off%t.blockSize
	nextPage := t.blockAt((t.index(block)/pageEntries + 1) * pageEntries)
	at, present, err := t.block(block)
	if err != nil {
		return run{}, err
	}
	end := block + 1
	if t.empty(block) {
		end = nextPage
	}
	for ; end < nextPage && end*t.blockSize < to; end++ {
		a, p, err := t.block(end)
		if err != nil {
			return run{}, err
		}
		if p != present || p && a != at+(end-block)*t.blockSize {
			break
		}
	}
	return run{present: present, at: at + inside, length: min(end*t.blockSize, to) - off}, nil
}
