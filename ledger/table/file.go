package table

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// file is an open table of either kind.
type file struct {
	v       *vault.Vault
	ref     events.TableRef
	domain  id.Domain
	sorted  bool // chunks ascend
	pages   []page
	offsets []int64  // of each page in the object
	starts  []uint64 // number of each page's first row
	packs   []PackRef
	decoder *vault.Decoder
}

// Domain is the dedup domain the table's chunks belong to.
func (f *file) Domain() id.Domain { return f.domain }

// Ref is what the table was opened with.
func (f *file) Ref() events.TableRef { return f.ref }

func openFile(ctx context.Context, v *vault.Vault, ref events.TableRef, kind byte) (*file, error) {
	if ref.Size < headerSize+trailerSize+vault.Overhead || ref.Rows > maxRows {
		return nil, damaged("table of %d bytes, %d rows", ref.Size, ref.Rows)
	}
	header, trailer := make([]byte, headerSize), make([]byte, trailerSize)
	name := ObjectName(ref)
	if err := get(ctx, v.Store, name, 0, header); err != nil {
		return nil, err
	}
	if err := get(ctx, v.Store, name, ref.Size-trailerSize, trailer); err != nil {
		return nil, err
	}
	f := &file{v: v, ref: ref, decoder: &vault.Decoder{}}
	if err := f.parseHeader(header, kind); err != nil {
		return nil, err
	}
	rows, at, length, err := parseTrailer(trailer)
	if err != nil {
		return nil, err
	}
	if rows != ref.Rows || at < headerSize || length > maxIndex+vault.Overhead+vault.FrameOverhead ||
		at+int64(length)+trailerSize != ref.Size {
		return nil, damaged("trailer does not fit the table's size and rows")
	}
	sealed := make([]byte, length)
	if err := get(ctx, v.Store, name, at, sealed); err != nil {
		return nil, err
	}
	frame, err := v.Keys.OpenMeta(nil, vault.TypeTableIndex, indexName(header, trailer), sealed)
	if err != nil {
		return nil, err
	}
	plain, err := f.decoder.Decode(nil, frame, maxIndex)
	if err != nil {
		return nil, err
	}
	return f, f.parseIndex(plain, kind, at)
}

// get reads exactly len(b) bytes; an object that is shorter is damaged.
func get(ctx context.Context, st store.Store, name string, off int64, b []byte) error {
	_, err := st.Get(ctx, name, off, b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", vault.ErrDamaged, err)
	}
	return err
}

func (f *file) parseHeader(b []byte, kind byte) error {
	if len(b) != headerSize || string(b[:6]) != magic {
		return damaged("not a table")
	}
	if n := binary.BigEndian.Uint16(b[6:]); n > format {
		return fmt.Errorf("table of format %d: %w", n, vault.ErrNewer)
	} else if n != format {
		return damaged("table of format %d", n)
	}
	var vid id.Vault
	var uid events.UID
	copy(vid[:], b[10:])
	copy(f.domain[:], b[42:])
	copy(uid[:], b[58:])
	if b[8] != kind || b[9] != 0 || vid != f.v.ID || uid != f.ref.UID {
		return damaged("table of another kind, vault or place")
	}
	return nil
}

func parseTrailer(b []byte) (rows uint64, indexAt int64, indexLen uint32, err error) {
	if len(b) != trailerSize || string(b[20:]) != endMagic {
		return 0, 0, 0, damaged("no trailer")
	}
	at := binary.BigEndian.Uint64(b[8:])
	if at > 1<<62 {
		return 0, 0, 0, damaged("index at %d", at)
	}
	return binary.BigEndian.Uint64(b), int64(at), binary.BigEndian.Uint32(b[16:]), nil
}

// parseIndex fills in pages and packs. The pages lie back to back between the
// header and the index, and their rows add up.
func (f *file) parseIndex(b []byte, kind byte, end int64) error {
	c := events.Cut{Rest: b}
	var root events.Hash
	copy(root[:], c.Bytes(len(root)))
	flags := c.Bytes(1)
	count := c.Uvarint()
	if c.Bad || root != f.ref.Root || flags[0] > flagSorted || count > uint64(len(c.Rest)) {
		return damaged("index of root %s with %d pages", root, count)
	}
	f.sorted = flags[0] == flagSorted
	f.pages, f.offsets, f.starts = make([]page, count), make([]int64, count), make([]uint64, count)
	at, rows, last := int64(headerSize), uint64(0), uint64(0)
	for i := range f.pages {
		stored, n := c.Uvarint(), c.Uvarint()
		first := last
		if kind == kindChunks {
			if k := c.Bytes(8); k != nil {
				first = binary.BigEndian.Uint64(k)
			}
		} else {
			first += min(c.Uvarint(), 2*MaxDisk)
			c.Bad = c.Bad || first > MaxDisk
		}
		if c.Bad || n == 0 || n > maxPageRows || stored > maxPage+vault.FrameOverhead+vault.Overhead {
			return damaged("index entry of page %d", i)
		}
		f.pages[i], f.offsets[i], f.starts[i] = page{uint32(stored), uint32(n), first}, at, rows
		at, rows, last = at+int64(stored), rows+n, first
	}
	if at != end || rows != f.ref.Rows {
		return damaged("index: pages end at %d of %d, rows %d of %d", at, end, rows, f.ref.Rows)
	}
	if kind == kindChunks {
		n := c.Uvarint()
		if n > uint64(len(c.Rest)/48) {
			return damaged("index with %d packs", n)
		}
		f.packs = make([]PackRef, n)
		for i := range f.packs {
			copy(f.packs[i].Job[:], c.Bytes(16))
			copy(f.packs[i].Name[:], c.Bytes(32))
		}
	}
	if c.Bad || len(c.Rest) != 0 {
		return damaged("index ends wrongly")
	}
	return nil
}

// pageOf returns the page that row n is in, -1 if there is no such row.
func (f *file) pageOf(n uint64) int {
	if n >= f.ref.Rows {
		return -1
	}
	return sort.Search(len(f.starts), func(i int) bool { return f.starts[i] > n }) - 1
}

// read returns the plain bytes of page p.
func (f *file) read(ctx context.Context, p int) ([]byte, error) {
	sealed := make([]byte, f.pages[p].stored)
	if err := get(ctx, f.v.Store, ObjectName(f.ref), f.offsets[p], sealed); err != nil {
		return nil, err
	}
	frame, err := f.v.Keys.OpenMeta(nil, vault.TypeTablePage, pageName(f.ref.UID, uint32(p)), sealed)
	if err != nil {
		return nil, err
	}
	return f.decoder.Decode(nil, frame, maxPage)
}
