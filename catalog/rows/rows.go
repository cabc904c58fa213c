package rows

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/id"
)

// Row is a range of a parcel: zero, or some of a chunk. Pack is a number that the
// caller knows packs by.
type Row struct {
	Offset, Length uint32 // in the parcel
	Zero           bool
	Known          bool // the chunk was there before
	Counted        bool // the caller counted the chunk by this row
	Chunk          id.Chunk
	From           uint32 // in the chunk
	Pack           uint32
	At             uint32 // in the pack
	Stored         uint32 // sealed length of the chunk
	Raw            uint32 // its own length
}

const rowBytes = 4 + 4 + 1 + 32 + 5*4

// Append encodes a row behind b, the rows before it in its parcel: offset, length
// u32 ‖ 1 zero, 2 known, 4 counted u8 ‖ chunk 32 ‖ from, pack, at, stored, raw u32, little-endian.
func Append(b []byte, r Row) []byte {
	b = binary.LittleEndian.AppendUint32(b, r.Offset)
	b = binary.LittleEndian.AppendUint32(b, r.Length)
	kind := byte(0)
	if r.Zero {
		kind = 1
	}
	if r.Known {
		kind |= 2
	}
	if r.Counted {
		kind |= 4
	}
	b = append(append(b, kind), r.Chunk[:]...)
	for _, n := range [...]uint32{r.From, r.Pack, r.At, r.Stored, r.Raw} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

func decode(b []byte) (r Row) {
	n := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	r = Row{Offset: n(0), Length: n(4), Zero: b[8]&1 != 0, Known: b[8]&2 != 0, Counted: b[8]&4 != 0, From: n(41), Pack: n(45), At: n(49), Stored: n(53), Raw: n(57)}
	copy(r.Chunk[:], b[9:])
	return r
}

// Disk is the rows of one disk. Several disks may share a log.
type Disk struct {
	log     *spill.Log
	parcels *spill.Sorter // number u32 ‖ place in the log u64, big-endian
}

const (
	parcelBytes  = 4 + 8
	parcelBudget = 96 << 10 // 8,192 parcels: 64 GiB of a disk
)

// NewDisk begins a disk without rows.
func NewDisk(log *spill.Log) Disk {
	return Disk{log, spill.NewSorter(log, parcelBytes, parcelBudget)}
}

// Put keeps the rows of a parcel, as Append made them. Of a parcel without rows
// nothing is kept.
func (d *Disk) Put(parcel uint32, rows []byte) error {
	if len(rows) == 0 {
		return nil
	}
	return d.Replace(parcel, rows)
}

// Replace is Put for a parcel that may have come before: it has these rows now,
// or none, and not those from before.
func (d *Disk) Replace(parcel uint32, rows []byte) error {
	at, err := d.log.Append(rows)
	if err != nil {
		return err
	}
	var b [parcelBytes]byte
	binary.BigEndian.PutUint32(b[:], parcel)
	binary.BigEndian.PutUint64(b[4:], uint64(at))
	return d.parcels.Add(b[:])
}

// Parcel is the rows of one parcel.
type Parcel struct {
	Number uint32
	coded  []byte
}

// Rows yields them as they were put.
func (p Parcel) Rows() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for b := p.coded; len(b) >= rowBytes; b = b[rowBytes:] {
			if !yield(decode(b)) {
				return
			}
		}
	}
}

// Sums is what a parcel counted for: bytes that were known and new, and what was
// counted of chunks. Those that are known count with the parcel; of the new ones here
// are those that nobody has any more, since of the others it counts that they are there.
type Sums struct {
	Known, New             int64
	KnownChunks, NewChunks uint64
	Stored                 int64
}

// Count sums a parcel up whose packs may be lost, and reports whether one is.
func (p Parcel) Count(lost func(pack uint32) bool) (s Sums, some bool) {
	for r := range p.Rows() {
		if r.Zero {
			continue
		}
		gone := lost(r.Pack)
		some = some || gone
		switch {
		case r.Known:
			s.Known += int64(r.Length)
			if r.Counted {
				s.KnownChunks++
			}
		default:
			s.New += int64(r.Length)
			if r.Counted && gone {
				s.NewChunks, s.Stored = s.NewChunks+1, s.Stored+int64(r.Stored)
			}
		}
	}
	return s, some
}

// All yields the parcels that have rows by their number; each is valid until the
// next. It may be called again.
func (d *Disk) All() iter.Seq2[Parcel, error] {
	return func(yield func(Parcel, error) bool) {
		var room []byte
		for b, err := range d.newest() {
			var p Parcel
			if err == nil {
				p.Number = binary.BigEndian.Uint32(b[:])
				room, err = d.log.Read(int64(binary.BigEndian.Uint64(b[4:])), room)
				p.coded = room
			}
			if err == nil && len(room)%rowBytes != 0 {
				err = spill.ErrDamaged
			}
			if err != nil {
				yield(p, fmt.Errorf("rows of parcel %d: %w", p.Number, errors.Join(err)))
				return
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// newest yields the last that was put of each parcel: it lies furthest in the log.
func (d *Disk) newest() iter.Seq2[[parcelBytes]byte, error] {
	return func(yield func([parcelBytes]byte, error) bool) {
		var last [parcelBytes]byte
		held := false
		for b, err := range d.parcels.Sorted() {
			if err != nil {
				yield(last, err)
				return
			}
			if held && [4]byte(b) != [4]byte(last[:]) && !yield(last, nil) {
				return
			}
			last, held = [parcelBytes]byte(b), true
		}
		if held {
			yield(last, nil)
		}
	}
}
