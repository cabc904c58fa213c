package table

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"sort"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
)

// PackRef names a pack: packs/<job>/<name>.
type PackRef struct {
	Job  id.Job
	Name id.Object
}

// ChunkRow is one chunk and where it lies.
type ChunkRow struct {
	Chunk  id.Chunk
	Pack   uint32 // index into the table's pack list
	Offset uint32 // in the pack, bytes
	Stored uint32 // sealed length
	Raw    uint32 // plain length
	New    bool   // stored by the job that wrote the table; else known before
}

// maxChunkRow is the longest encoded row: an id, and five uvarints of 64 bits.
const maxChunkRow = 32 + 5*binary.MaxVarintLen64

// WriteChunks writes a chunk table of domain d into job's folder and returns
// what the facts say of it and what the segment's header does. Rows are
// numbered as they come; see the package comment on their order. A row whose
// pack is not in packs is ErrRow; an error from rows ends the writing.
func WriteChunks(ctx context.Context, v *vault.Vault, job id.Job, d id.Domain, packs []PackRef,
	rows iter.Seq2[ChunkRow, error]) (events.TableRef, ledger.ObjectRef, error) {
	ref, obj, err := writeChunks(ctx, v, job, d, packs, rows)
	if err != nil {
		err = fmt.Errorf("write chunk table: %w", err)
	}
	return ref, obj, err
}

func writeChunks(ctx context.Context, v *vault.Vault, job id.Job, d id.Domain, packs []PackRef,
	rows iter.Seq2[ChunkRow, error]) (ref events.TableRef, obj ledger.ObjectRef, err error) {
	w, err := newWriter(ctx, v, kindChunks, d)
	if err != nil {
		return ref, obj, err
	}
	defer w.up.Abort() // after a commit it does nothing
	sorted := true
	var last ChunkRow
	for r, err := range rows {
		if err != nil {
			return ref, obj, err
		}
		if uint64(r.Pack) >= uint64(len(packs)) {
			return ref, obj, fmt.Errorf("chunk %s is in pack %d of %d: %w", id.Short(r.Chunk), r.Pack, len(packs), ErrRow)
		}
		sorted = sorted && (w.rows == 0 || last.Chunk.Compare(r.Chunk) < 0)
		if w.full(maxChunkRow) {
			if err := w.flush(); err != nil {
				return ref, obj, err
			}
		}
		if w.count == 0 {
			last = ChunkRow{}
		}
		if err := w.begin(binary.BigEndian.Uint64(r.Chunk[:])); err != nil {
			return ref, obj, err
		}
		w.plain = appendChunkRow(w.plain, r, last)
		// The root says what is there, not where: the same backup into another
		// vault of the same keys has the same root.
		w.root.Write(binary.BigEndian.AppendUint32(r.Chunk[:], r.Raw))
		last = r
	}
	return w.close(job, sorted, packs)
}

// appendChunkRow encodes r behind last, its neighbour in the page: id ‖ pack as
// a difference, with the flag New as its lowest bit ‖ offset as a difference to
// where the neighbour ends in the same pack ‖ stored ‖ raw, in blocks if whole.
func appendChunkRow(b []byte, r, last ChunkRow) []byte {
	b = append(b, r.Chunk[:]...)
	pack := zigzag(int64(r.Pack)-int64(last.Pack)) << 1
	if r.New {
		pack |= 1
	}
	b = binary.AppendUvarint(b, pack)
	b = binary.AppendUvarint(b, zigzag(int64(r.Offset)-expected(r.Pack, last)))
	b = binary.AppendUvarint(b, uint64(r.Stored))
	return binary.AppendUvarint(b, inBlocks(uint64(r.Raw)))
}

func expected(pack uint32, last ChunkRow) int64 {
	if pack != last.Pack {
		return 0
	}
	return int64(last.Offset) + int64(last.Stored)
}

// inBlocks makes lengths that are whole blocks short: even numbers count
// blocks of 4 KiB, odd ones bytes.
func inBlocks(n uint64) uint64 {
	if n%block == 0 {
		return n / block << 1
	}
	return n<<1 | 1
}

func outOfBlocks(n uint64) uint64 {
	if n&1 == 1 {
		return n >> 1
	}
	return n >> 1 * block
}

const block = 4096

func zigzag(n int64) uint64   { return uint64(n<<1) ^ uint64(n>>63) }
func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }

// decodeChunkPage reads the rows of a page. packs is the length of the table's
// pack list.
func decodeChunkPage(b []byte, rows uint32, packs int) ([]ChunkRow, error) {
	if rows > maxPageRows || len(b) > maxPage {
		return nil, damaged("page of %d rows in %d bytes", rows, len(b))
	}
	out := make([]ChunkRow, 0, rows)
	var last ChunkRow
	c := events.Cut{Rest: b}
	for range rows {
		var r ChunkRow
		copy(r.Chunk[:], c.Bytes(len(r.Chunk)))
		pack := c.Uvarint()
		r.New = pack&1 == 1
		p := int64(last.Pack) + unzigzag(pack>>1)
		if p < 0 || p >= int64(packs) {
			return nil, damaged("chunk in pack %d of %d", p, packs)
		}
		r.Pack = uint32(p)
		offset := expected(r.Pack, last) + unzigzag(c.Uvarint())
		stored, raw := c.Uvarint(), outOfBlocks(c.Uvarint())
		if offset < 0 || offset > 1<<32-1 || stored > 1<<32-1 || raw > 1<<32-1 || c.Bad {
			return nil, damaged("chunk row %d", len(out))
		}
		r.Offset, r.Stored, r.Raw = uint32(offset), uint32(stored), uint32(raw)
		out = append(out, r)
		last = r
	}
	if len(c.Rest) != 0 {
		return nil, damaged("%d bytes behind the rows of a page", len(c.Rest))
	}
	return out, nil
}

// ChunkTable is an open chunk table.
type ChunkTable struct {
	file
	cache *cache
}

// OpenChunks reads the index of a chunk table. ref comes from a fact.
func OpenChunks(ctx context.Context, v *vault.Vault, ref events.TableRef) (*ChunkTable, error) {
	return openChunks(ctx, v, ref, newCache(defaultCache))
}

func openChunks(ctx context.Context, v *vault.Vault, ref events.TableRef, c *cache) (*ChunkTable, error) {
	f, err := openFile(ctx, v, ref, kindChunks)
	if err != nil {
		return nil, fmt.Errorf("open chunk table %s: %w", ObjectName(ref), err)
	}
	return &ChunkTable{file: *f, cache: c}, nil
}

// Packs is the table's pack list; the caller does not change it.
func (t *ChunkTable) Packs() []PackRef { return t.packs }

// Row returns row n and the pack it lies in. A number that the table does not
// have is ErrDamaged: it came from an extent table that does not fit.
func (t *ChunkTable) Row(ctx context.Context, n uint32) (ChunkRow, PackRef, error) {
	p := t.pageOf(uint64(n))
	if p < 0 {
		return ChunkRow{}, PackRef{}, fmt.Errorf("%s: %w", ObjectName(t.ref), damaged("row %d of %d", n, t.ref.Rows))
	}
	rows, err := t.page(ctx, p)
	if err != nil {
		return ChunkRow{}, PackRef{}, err
	}
	r := rows[uint64(n)-t.starts[p]]
	return r, t.packs[r.Pack], nil
}

// Find looks a chunk up. In a table ordered by chunk it reads a page or two, in
// any other it may read all of them.
func (t *ChunkTable) Find(ctx context.Context, c id.Chunk) (ChunkRow, PackRef, bool, error) {
	from, to := 0, len(t.pages)
	if t.sorted {
		key := binary.BigEndian.Uint64(c[:])
		// The pages that begin with key itself, and the one before them.
		from = max(0, sort.Search(len(t.pages), func(i int) bool { return t.pages[i].first >= key })-1)
		to = sort.Search(len(t.pages), func(i int) bool { return t.pages[i].first > key })
	}
	for p := from; p < to; p++ {
		rows, err := t.page(ctx, p)
		if err != nil {
			return ChunkRow{}, PackRef{}, false, err
		}
		for _, r := range rows {
			if r.Chunk == c {
				return r, t.packs[r.Pack], true, nil
			}
		}
	}
	return ChunkRow{}, PackRef{}, false, nil
}

// All yields every row in the order of its number.
func (t *ChunkTable) All(ctx context.Context) iter.Seq2[ChunkRow, error] {
	return func(yield func(ChunkRow, error) bool) {
		for p := range t.pages {
			rows, err := t.page(ctx, p)
			if err != nil {
				yield(ChunkRow{}, err)
				return
			}
			for _, r := range rows {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

func (t *ChunkTable) page(ctx context.Context, p int) ([]ChunkRow, error) {
	rows, err := rowsOf(t.cache, slot{kindChunks, t.ref.UID, p}, func() ([]ChunkRow, error) {
		b, err := t.read(ctx, p)
		if err != nil {
			return nil, err
		}
		return decodeChunkPage(b, t.pages[p].rows, len(t.packs))
	})
	if err != nil {
		return nil, fmt.Errorf("%s page %d: %w", ObjectName(t.ref), p, err)
	}
	return rows, nil
}
