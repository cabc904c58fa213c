package table

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

const (
	magic       = "MRTABL"
	endMagic    = "MRTEND"
	format      = 1
	kindExtents = 1
	kindChunks  = 2

	// header: magic 6 ‖ format u16 ‖ kind u8 ‖ zero u8 ‖ vault 32 ‖ domain 16 ‖ uid 16
	headerSize = 6 + 2 + 1 + 1 + 32 + 16 + 16
	// trailer: rows u64 ‖ index offset u64 ‖ index length u32 ‖ magic 6
	trailerSize = 8 + 8 + 4 + 6

	maxPage     = 64 << 10  // bytes of a page before compression
	maxPageRows = 4096      // so that a decoded page is bounded too
	maxIndex    = 256 << 20 // bytes of an index before compression
	maxRows     = 1 << 32   // row numbers are 32 bits
)

// page is what the index knows of one page.
type page struct {
	stored uint32 // sealed length
	rows   uint32
	first  uint64 // extents: offset of the first row; chunks: its id's first 8 bytes
}

// writer streams pages into an upload. Its errors are sticky.
type writer struct {
	ctx    context.Context
	v      *vault.Vault
	up     store.Upload
	zstd   vault.Codec
	kind   byte
	header []byte
	uid    events.UID
	sum    hash.Hash // of the object
	root   hash.Hash // of the rows
	size   int64
	rows   uint64
	pages  []page

	plain []byte // the page being filled
	count uint32 // rows in it
	first uint64
	room  []byte // for the compressed page, used again
}

func newWriter(ctx context.Context, v *vault.Vault, kind byte, d id.Domain) (*writer, error) {
	zstd, err := vault.NewCodec("zstd")
	if err != nil {
		return nil, err
	}
	w := &writer{ctx: ctx, v: v, zstd: zstd, kind: kind, sum: sha256.New(), root: sha256.New()}
	_, _ = rand.Read(w.uid[:]) // never fails
	w.header = append(make([]byte, 0, headerSize), magic...)
	w.header = binary.BigEndian.AppendUint16(w.header, format)
	w.header = append(w.header, kind, 0)
	w.header = append(w.header, v.ID[:]...)
	w.header = append(w.header, d[:]...)
	w.header = append(w.header, w.uid[:]...)
	if w.up, err = store.Begin(ctx, v.Store); err != nil {
		return nil, err
	}
	if err := w.write(w.header); err != nil {
		w.up.Abort()
		return nil, err
	}
	return w, nil
}

func (w *writer) write(b []byte) error {
	w.sum.Write(b)
	w.size += int64(len(b))
	_, err := w.up.Write(b)
	return err
}

// full reports whether a row of at most n more bytes has to go to a new page.
func (w *writer) full(n int) bool { return len(w.plain)+n > maxPage || w.count == maxPageRows }

// begin notes that a row follows whose key in the index is first, should it be
// the first of its page.
func (w *writer) begin(first uint64) error {
	if w.rows == maxRows {
		return fmt.Errorf("row %d: %w", w.rows, ErrTooLarge)
	}
	if w.count == 0 {
		w.first = first
	}
	w.count++
	w.rows++
	return nil
}

// flush seals the page being filled. Its name binds it to its place.
func (w *writer) flush() error {
	if w.count == 0 {
		return nil
	}
	w.room = w.zstd.Encode(w.room[:0], w.plain)
	sealed, err := w.v.Keys.SealMeta(nil, vault.TypeTablePage, pageName(w.uid, uint32(len(w.pages))), w.room)
	if err != nil {
		return err
	}
	w.pages = append(w.pages, page{stored: uint32(len(sealed)), rows: w.count, first: w.first})
	w.plain, w.count = w.plain[:0], 0
	return w.write(sealed)
}

func pageName(uid events.UID, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 20), uid[:]...), n)
}

// close writes index and trailer and commits the object under its name. The
// index is sealed under header and trailer, which binds both.
func (w *writer) close(job id.Job, sorted bool, packs []PackRef) (events.TableRef, ledger.ObjectRef, error) {
	var none events.TableRef
	if err := w.flush(); err != nil {
		return none, ledger.ObjectRef{}, err
	}
	root := events.Hash(w.root.Sum(nil))
	plain := appendIndex(nil, w.kind, root, sorted, w.pages, packs)
	if len(plain) > maxIndex {
		return none, ledger.ObjectRef{}, fmt.Errorf("index of %d bytes: %w", len(plain), ErrTooLarge)
	}
	codec := w.zstd
	if len(plain) > vault.MaxChunk { // more than a compressed frame may hold
		var err error
		if codec, err = vault.NewCodec("none"); err != nil {
			return none, ledger.ObjectRef{}, err
		}
	}
	frame := codec.Encode(nil, plain)
	at := uint64(w.size)
	trailer := appendTrailer(nil, w.rows, at, uint32(len(frame)+vault.Overhead))
	sealed, err := w.v.Keys.SealMeta(nil, vault.TypeTableIndex, indexName(w.header, trailer), frame)
	if err != nil {
		return none, ledger.ObjectRef{}, err
	}
	if len(sealed) != len(frame)+vault.Overhead {
		return none, ledger.ObjectRef{}, fmt.Errorf("table: internal error: sealing added %d bytes", len(sealed)-len(frame))
	}
	if err := w.write(sealed); err != nil {
		return none, ledger.ObjectRef{}, err
	}
	if err := w.write(trailer); err != nil {
		return none, ledger.ObjectRef{}, err
	}
	name := id.Object(w.sum.Sum(nil))
	ref := events.TableRef{Name: name, Job: job, UID: w.uid, Size: w.size, Rows: w.rows, Root: root}
	// Before this commit nothing of the table is visible; after it, all of it is
	// there and durable, and nobody knows of it until a segment names it.
	if err := w.up.Commit(w.ctx, ObjectName(ref)); err != nil {
		return none, ledger.ObjectRef{}, err
	}
	return ref, ledger.ObjectRef{Name: ObjectName(ref), Sum: events.Hash(name), Size: w.size}, nil
}

// ObjectName is where a table lies in the store.
func ObjectName(r events.TableRef) string { return "tables/" + r.Job.String() + "/" + r.Name.String() }

func indexName(header, trailer []byte) []byte {
	return append(append(make([]byte, 0, headerSize+trailerSize), header...), trailer...)
}

func appendTrailer(b []byte, rows, indexAt uint64, indexLen uint32) []byte {
	b = binary.BigEndian.AppendUint64(b, rows)
	b = binary.BigEndian.AppendUint64(b, indexAt)
	b = binary.BigEndian.AppendUint32(b, indexLen)
	return append(b, endMagic...)
}

// appendIndex encodes: root 32 ‖ flags u8 (bit 0: chunks ascend) ‖ page count ‖
// per page {stored, rows, first} ‖ chunks only: pack count ‖ per pack {job 16,
// name 32}. Numbers are uvarints; the first offsets of extents are deltas, the
// first ids of chunks 8 bytes.
func appendIndex(b []byte, kind byte, root events.Hash, sorted bool, pages []page, packs []PackRef) []byte {
	b = append(b, root[:]...)
	var flags byte
	if sorted {
		flags = flagSorted
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(len(pages)))
	var last uint64
	for _, p := range pages {
		b = binary.AppendUvarint(b, uint64(p.stored))
		b = binary.AppendUvarint(b, uint64(p.rows))
		if kind == kindChunks {
			b = binary.BigEndian.AppendUint64(b, p.first)
		} else {
			b = binary.AppendUvarint(b, p.first-last)
			last = p.first
		}
	}
	if kind == kindChunks {
		b = binary.AppendUvarint(b, uint64(len(packs)))
		for _, p := range packs {
			b = append(append(b, p.Job[:]...), p.Name[:]...)
		}
	}
	return b
}

const flagSorted = 1
