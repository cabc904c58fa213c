package table

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// MaxLayers is how many layers a disk of a point may have. A job that would
// add one more writes a base instead; see [MergeLayers].
const MaxLayers = 8

// MapPiece is a range of a disk and where its bytes are: nowhere (Zero), or
// Length bytes from ChunkOffset on in a chunk, which lies sealed in a pack.
type MapPiece struct {
	Offset, Length int64
	Zero           bool
	Chunk          id.Chunk
	ChunkOffset    int64
	Domain         id.Domain // whose keys the chunk is sealed with
	Pack           PackRef
	PackOffset     uint32
	Stored         uint32 // sealed length of the chunk
	Raw            uint32 // plain length of the chunk
}

// Map is one disk of a point: its layers shown as one.
type Map struct {
	size   int64
	layers []layer // newest first
}

type layer struct {
	extents *ExtentTable
	chunks  *ChunkTable // nil: the layer has zeros only
}

// OpenMap reads the indexes of a disk's layers. Pages that are read later are
// kept in a bounded cache that the layers share.
func OpenMap(ctx context.Context, v *vault.Vault, disk events.PointDisk) (*Map, error) {
	return NewPages().OpenMap(ctx, v, disk)
}

// OpenMap opens a map that shares its bounded cache with the other maps of c.
func (c *Pages) OpenMap(ctx context.Context, v *vault.Vault, disk events.PointDisk) (*Map, error) {
	if len(disk.Extents) != len(disk.Chunks) || len(disk.Extents) > MaxLayers || disk.Size < 0 || disk.Size > MaxDisk {
		return nil, fmt.Errorf("open map of disk %s: %w", disk.Disk,
			damaged("%d extent and %d chunk tables, %d bytes", len(disk.Extents), len(disk.Chunks), disk.Size))
	}
	m := &Map{size: disk.Size}
	for i, ref := range disk.Extents {
		var l layer
		var err error
		if l.extents, err = openExtents(ctx, v, ref, c.cache); err != nil {
			return nil, fmt.Errorf("open map of disk %s: %w", disk.Disk, err)
		}
		if !disk.Chunks[i].Name.IsZero() {
			if l.chunks, err = openChunks(ctx, v, disk.Chunks[i], c.cache); err != nil {
				return nil, fmt.Errorf("open map of disk %s: %w", disk.Disk, err)
			}
		}
		m.layers = append(m.layers, l)
	}
	return m, nil
}

// Size is the disk's size in bytes.
func (m *Map) Size() int64 { return m.size }

// Packs yields the packs that the chunk tables of the layers name, one that
// several name as often. Not every one of them must still be needed: a newer
// layer may hide what an older one has in it.
func (m *Map) Packs() iter.Seq[PackRef] {
	return func(yield func(PackRef) bool) {
		for _, l := range m.layers {
			if l.chunks == nil {
				continue
			}
			for _, p := range l.chunks.packs {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// Within reports whether all chunks of the disk are of one domain.
func (m *Map) Within(d id.Domain) bool {
	return !slices.ContainsFunc(m.layers, func(l layer) bool { return l.chunks != nil && l.chunks.domain != d })
}

// Layers is the number of layers.
func (m *Map) Layers() int { return len(m.layers) }

// Range yields a gap-free cover of [from, to), cut to the disk, in order. Zero
// pieces are as long as they can be; a chunk's piece is what is seen of it.
func (m *Map) Range(ctx context.Context, from, to int64) iter.Seq2[MapPiece, error] {
	return joinZeros(func(yield func(MapPiece, error) bool) {
		at, to := max(from, 0), min(to, m.size)
		cursors := make([]*cursor, len(m.layers))
		for i, l := range m.layers {
			cursors[i] = newCursor(l.extents, at)
		}
		for at < to {
			p, err := m.piece(ctx, cursors, at, to)
			if !yield(p, err) || err != nil {
				return
			}
			at += p.Length
		}
	})
}

// joinZeros makes one piece of zero pieces that follow each other, so that a
// disk has the same pieces however its layers came to be.
func joinZeros(pieces iter.Seq2[MapPiece, error]) iter.Seq2[MapPiece, error] {
	return func(yield func(MapPiece, error) bool) {
		var zero MapPiece // not yet yielded
		for p, err := range pieces {
			if err == nil && p.Zero && zero.Length > 0 {
				zero.Length += p.Length
				continue
			}
			if zero.Length > 0 && !yield(zero, nil) {
				return
			}
			zero = MapPiece{}
			if err == nil && p.Zero {
				zero = MapPiece{Offset: p.Offset, Length: p.Length, Zero: true}
			} else if !yield(p, err) {
				return
			}
		}
		if zero.Length > 0 {
			yield(zero, nil)
		}
	}
}

// piece returns what is at a position, up to where something else begins.
func (m *Map) piece(ctx context.Context, cursors []*cursor, at, to int64) (MapPiece, error) {
	end := to
	for i, c := range cursors {
		e, err := c.at(ctx, at)
		if err != nil {
			return MapPiece{}, err
		}
		if e == nil {
			continue
		}
		if e.offset > at { // newer than what is below: it cuts that off
			end = min(end, e.offset)
			continue
		}
		end = min(end, e.end())
		if e.zero {
			break
		}
		return m.resolve(ctx, m.layers[i], *e, at, end)
	}
	return MapPiece{Offset: at, Length: end - at, Zero: true}, nil
}

// resolve looks up the chunk of an extent.
func (m *Map) resolve(ctx context.Context, l layer, e extent, at, end int64) (MapPiece, error) {
	if l.chunks == nil {
		return MapPiece{}, fmt.Errorf("%s: %w", ObjectName(l.extents.ref), damaged("chunk %d without a chunk table", e.chunk))
	}
	r, pack, err := l.chunks.Row(ctx, e.chunk)
	if err != nil {
		return MapPiece{}, err
	}
	if e.inner+e.length > int64(r.Raw) {
		return MapPiece{}, fmt.Errorf("%s: %w", ObjectName(l.extents.ref),
			damaged("extent at %d wants bytes %d to %d of a chunk of %d", e.offset, e.inner, e.inner+e.length, r.Raw))
	}
	return MapPiece{
		Offset: at, Length: end - at, Chunk: r.Chunk, ChunkOffset: e.inner + at - e.offset, Domain: l.chunks.domain,
		Pack: pack, PackOffset: r.Offset, Stored: r.Stored, Raw: r.Raw,
	}, nil
}

// MergeLayers lays overlay, what a job found, over the map of its parent and
// yields the result: a gap-free cover of the whole disk, in order, one piece at
// a time. It is what a new base layer is written from: the caller numbers the
// chunks as they come by and writes them and the extents. size is that of the
// disk now, which may have grown or shrunk. Pieces of overlay ascend and do not
// overlap, else ErrRow.
func MergeLayers(ctx context.Context, parent *Map, size int64, overlay iter.Seq2[MapPiece, error]) iter.Seq2[MapPiece, error] {
	return joinZeros(func(yield func(MapPiece, error) bool) {
		var at int64
		// below yields what the parent has up to a position; what it is too
		// short for is zero.
		below := func(to int64) (more bool) {
			for p, err := range parent.Range(ctx, at, to) {
				if !yield(p, err) || err != nil {
					return false
				}
				at = p.Offset + p.Length
			}
			rest := MapPiece{Offset: at, Length: to - at, Zero: true}
			at = to
			return rest.Length == 0 || yield(rest, nil)
		}
		for p, err := range overlay {
			if err == nil && (p.Offset < at || p.Length <= 0 || p.Length > size-p.Offset) {
				err = fmt.Errorf("merge: piece at %d of %d bytes, after %d, disk of %d: %w", p.Offset, p.Length, at, size, ErrRow)
			}
			if err != nil {
				yield(MapPiece{}, err)
				return
			}
			if !below(p.Offset) || !yield(p, nil) {
				return
			}
			at = p.Offset + p.Length
		}
		below(size)
	})
}
