package table

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"sort"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
)

// ExtentRow is a range of a disk that is zero, or Length bytes of a chunk from
// ChunkOffset on. Offsets and lengths are bytes, in the disk and in the chunk.
type ExtentRow struct {
	Offset, Length int64
	Zero           bool
	Chunk          uint32 // row number in the layer's chunk table
	ChunkOffset    int64
	// ID is the chunk's id. The writer needs it for the table's root; it is not
	// stored again, and rows that are read have none.
	ID id.Chunk
}

// MaxDisk bounds offsets: no disk is larger.
const MaxDisk = 1 << 60

// maxExtentRow is the longest encoded row: flags and four uvarints.
const maxExtentRow = 1 + 4*binary.MaxVarintLen64

// The flags of an encoded extent.
const (
	extentZero  = 1 << iota // no chunk
	extentGap               // does not begin where its neighbour ends
	extentInner             // begins inside its chunk
	extentFlags = 1<<iota - 1
)

// WriteExtents writes the extent table of one disk into job's folder. Rows
// ascend and do not overlap, else ErrRow; the chunks they name are rows of the
// layer's chunk table, written before. An error from rows ends the writing.
func WriteExtents(ctx context.Context, v *vault.Vault, job id.Job, d id.Domain,
	rows iter.Seq2[ExtentRow, error]) (events.TableRef, ledger.ObjectRef, error) {
	ref, obj, err := writeExtents(ctx, v, job, d, rows)
	if err != nil {
		err = fmt.Errorf("write extent table: %w", err)
	}
	return ref, obj, err
}

func writeExtents(ctx context.Context, v *vault.Vault, job id.Job, d id.Domain,
	rows iter.Seq2[ExtentRow, error]) (ref events.TableRef, obj ledger.ObjectRef, err error) {
	w, err := newWriter(ctx, v, kindExtents, d)
	if err != nil {
		return ref, obj, err
	}
	defer w.up.Abort() // after a commit it does nothing
	var end int64
	var last extent
	for r, err := range rows {
		if err != nil {
			return ref, obj, err
		}
		e := extent{r.Offset, r.Length, r.ChunkOffset, r.Chunk, r.Zero}
		if e.offset < end || !e.sane() {
			return ref, obj, fmt.Errorf("extent at %d of %d bytes, after %d: %w", r.Offset, r.Length, end, ErrRow)
		}
		end = e.end()
		if w.full(maxExtentRow) {
			if err := w.flush(); err != nil {
				return ref, obj, err
			}
		}
		if w.count == 0 {
			last = extent{}
		}
		if err := w.begin(uint64(e.offset)); err != nil {
			return ref, obj, err
		}
		w.plain = appendExtent(w.plain, e, last)
		w.root.Write(contentOf(e, r.ID))
		last = e.neighbour(last)
	}
	return w.close(job, false, nil)
}

// extent is an ExtentRow as it is kept in memory.
type extent struct {
	offset, length, inner int64
	chunk                 uint32
	zero                  bool
}

func (e extent) end() int64 { return e.offset + e.length }

func (e extent) sane() bool {
	return e.offset >= 0 && e.length > 0 && e.length <= MaxDisk && e.offset <= MaxDisk-e.length &&
		e.inner >= 0 && e.inner <= vault.MaxChunk && (!e.zero || e.inner == 0 && e.chunk == 0)
}

// neighbour is what the row after e is encoded against: e, but a zero row
// passes on the chunk number of its own neighbour.
func (e extent) neighbour(last extent) extent {
	if e.zero {
		e.chunk = last.chunk
	}
	return e
}

// contentOf is what the root covers of an extent: what the disk holds, not
// where it is stored.
func contentOf(e extent, c id.Chunk) []byte {
	b := make([]byte, 0, 8+8+8+1+sha256.Size)
	b = binary.BigEndian.AppendUint64(b, uint64(e.offset))
	b = binary.BigEndian.AppendUint64(b, uint64(e.length))
	if e.zero {
		return append(b, 1)
	}
	b = append(b, 0)
	b = append(b, c[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(e.inner))
}

// appendExtent encodes e behind last, its neighbour in the page: flags ‖ the
// gap between them, if there is one ‖ length, in blocks if whole ‖ for a chunk
// its number as a difference to the one after the neighbour's ‖ offset in it,
// unless 0, in blocks if whole.
func appendExtent(b []byte, e, last extent) []byte {
	var flags byte
	if e.zero {
		flags |= extentZero
	}
	if e.offset != last.end() {
		flags |= extentGap
	}
	if e.inner != 0 {
		flags |= extentInner
	}
	b = append(b, flags)
	if flags&extentGap != 0 {
		b = binary.AppendUvarint(b, inBlocks(uint64(e.offset-last.end())))
	}
	b = binary.AppendUvarint(b, inBlocks(uint64(e.length)))
	if e.zero {
		return b
	}
	b = binary.AppendUvarint(b, zigzag(int64(e.chunk)-int64(last.chunk)-1))
	if flags&extentInner != 0 {
		b = binary.AppendUvarint(b, inBlocks(uint64(e.inner)))
	}
	return b
}

// decodeExtentPage reads the rows of a page that begins at first.
func decodeExtentPage(b []byte, rows uint32, first uint64) ([]extent, error) {
	if rows > maxPageRows || len(b) > maxPage {
		return nil, damaged("page of %d rows in %d bytes", rows, len(b))
	}
	out := make([]extent, 0, rows)
	var last extent
	c := events.Cut{Rest: b}
	for range rows {
		f := c.Bytes(1)
		if c.Bad || f[0] > extentFlags {
			return nil, damaged("extent row %d", len(out))
		}
		e := extent{offset: last.end(), zero: f[0]&extentZero != 0, chunk: 0}
		if f[0]&extentGap != 0 {
			e.offset += bounded(&c)
		}
		e.length = bounded(&c)
		if !e.zero {
			n := int64(last.chunk) + 1 + unzigzag(c.Uvarint())
			if n < 0 || n >= maxRows {
				return nil, damaged("extent of chunk %d", n)
			}
			e.chunk = uint32(n)
			if f[0]&extentInner != 0 {
				e.inner = bounded(&c)
			}
		}
		if c.Bad || !e.sane() || len(out) == 0 && uint64(e.offset) != first {
			return nil, damaged("extent row %d", len(out))
		}
		out = append(out, e)
		last = e.neighbour(last)
	}
	if len(c.Rest) != 0 {
		return nil, damaged("%d bytes behind the rows of a page", len(c.Rest))
	}
	return out, nil
}

// bounded reads a length that may be added to an offset without overflow.
func bounded(c *events.Cut) int64 {
	n := c.Uvarint()
	if n > 2*MaxDisk {
		c.Bad = true
		return 0
	}
	n = outOfBlocks(n)
	if n > MaxDisk {
		c.Bad = true
		return 0
	}
	return int64(n)
}

// ExtentTable is an open extent table.
type ExtentTable struct {
	file
	cache *cache
}

// OpenExtents reads the index of an extent table. ref comes from a fact.
func OpenExtents(ctx context.Context, v *vault.Vault, ref events.TableRef) (*ExtentTable, error) {
	return openExtents(ctx, v, ref, newCache(defaultCache))
}

func openExtents(ctx context.Context, v *vault.Vault, ref events.TableRef, c *cache) (*ExtentTable, error) {
	f, err := openFile(ctx, v, ref, kindExtents)
	if err != nil {
		return nil, fmt.Errorf("open extent table %s: %w", ObjectName(ref), err)
	}
	return &ExtentTable{*f, c}, nil
}

// Range yields the rows that overlap [from, to), whole, in order.
func (t *ExtentTable) Range(ctx context.Context, from, to int64) iter.Seq2[ExtentRow, error] {
	return func(yield func(ExtentRow, error) bool) {
		c := newCursor(t, from)
		for at := from; ; {
			e, err := c.at(ctx, at)
			if err != nil {
				yield(ExtentRow{}, err)
				return
			}
			if e == nil || e.offset >= to {
				return
			}
			if !yield(ExtentRow{e.offset, e.length, e.zero, e.chunk, e.inner, id.Chunk{}}, nil) {
				return
			}
			at = e.end()
		}
	}
}

// cursor walks a table forwards, one page in memory.
type cursor struct {
	t    *ExtentTable
	next int // page to read when rows are used up
	rows []extent
}

// newCursor begins at the page that may hold the row over from.
func newCursor(t *ExtentTable, from int64) *cursor {
	after := sort.Search(len(t.pages), func(i int) bool { return int64(t.pages[i].first) > from })
	return &cursor{t: t, next: max(0, after-1)}
}

// at returns the first row that ends after pos, nil if there is none. Calls
// have ascending positions.
func (c *cursor) at(ctx context.Context, pos int64) (*extent, error) {
	for {
		for n := 0; len(c.rows) > 0 && c.rows[0].end() <= pos; n++ {
			c.rows = c.rows[1:]
			if n == 4 { // far away: the range begins in the middle of the page
				c.rows = c.rows[sort.Search(len(c.rows), func(i int) bool { return c.rows[i].end() > pos }):]
			}
		}
		if len(c.rows) > 0 {
			return &c.rows[0], nil
		}
		if c.next == len(c.t.pages) {
			return nil, nil
		}
		var err error
		if c.rows, err = c.t.page(ctx, c.next); err != nil {
			return nil, err
		}
		c.next++
	}
}

// page returns the rows of page p. They are shared: a small range, and there are
// as many of them as a disk has parcels, costs no decoding if it is near the last.
func (t *ExtentTable) page(ctx context.Context, p int) ([]extent, error) {
	rows, err := rowsOf(t.cache, slot{kindExtents, t.ref.UID, p}, func() ([]extent, error) {
		b, err := t.read(ctx, p)
		if err != nil {
			return nil, err
		}
		rows, err := decodeExtentPage(b, t.pages[p].rows, t.pages[p].first)
		if err == nil && p+1 < len(t.pages) && uint64(rows[len(rows)-1].end()) > t.pages[p+1].first {
			err = damaged("rows reach into the next page")
		}
		return rows, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s page %d: %w", ObjectName(t.ref), p, err)
	}
	return rows, nil
}
