package overlay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/millrace-backup/millrace/vdisk"
)

// The form of a journal; see docs/format/overlay.md.
const (
	magic      = "MLRCOVL1"
	headerSize = 4096
	recordSize = 48

	kindData   = 1
	kindZero   = 2
	kindMarker = 3

	allSectors = 0xff
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged says that the files of an overlay are not what was written.
var ErrDamaged = errors.New("damaged overlay")

// ErrOther says that an overlay lies over another disk.
var ErrOther = errors.New("overlay of another disk")

// header is the beginning of a journal.
type header struct {
	epoch uint64
	size  int64 // of the disk, bytes
	name  [32]byte
	lines int64 // records that were durable before the header was
}

func identity(name string) [32]byte { return sha256.Sum256([]byte(name)) }

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[8:], h.epoch)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.size))
	copy(b[24:], h.name[:])
	binary.LittleEndian.PutUint64(b[56:], uint64(h.lines))
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	return b
}

// readHeader returns the header of a journal, of epoch 0 if there is none: a journal that does
// not count, or that was being made when the power went.
func readHeader(f vdisk.File) (header, error) {
	b := make([]byte, headerSize)
	if n, err := f.ReadAt(b, 0); n < headerSize {
		if err == nil || errors.Is(err, io.EOF) {
			return header{}, nil
		}
		return header{}, err
	}
	h := header{epoch: binary.LittleEndian.Uint64(b[8:]), size: int64(binary.LittleEndian.Uint64(b[16:])),
		lines: int64(binary.LittleEndian.Uint64(b[56:]))}
	copy(h.name[:], b[24:])
	if binary.LittleEndian.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli) || !bytes.HasPrefix(b, []byte(magic)) {
		return header{}, nil
	}
	return h, nil
}

// record is a line of the journal. Of data count units lie in count slots from slot on; mask
// says which sectors of a single unit are there. Of a marker, unit is the number below which
// all records and their slots are durable: those between it and the marker came while
// the marker's flush was under way.
type record struct {
	kind  uint8
	mask  uint8
	seq   uint64
	unit  int64
	count int64
	slot  int64
	sum   uint32 // CRC-32C of the slots' bytes
}

func (r record) encode(b []byte, epoch uint64) {
	clear(b[:recordSize])
	b[4], b[5] = r.kind, r.mask
	binary.LittleEndian.PutUint64(b[8:], r.seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(r.unit))
	binary.LittleEndian.PutUint64(b[24:], uint64(r.count))
	binary.LittleEndian.PutUint64(b[32:], uint64(r.slot))
	binary.LittleEndian.PutUint32(b[40:], r.sum)
	binary.LittleEndian.PutUint32(b[44:], uint32(epoch))
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:recordSize], castagnoli))
}

// decode returns the record in b; ok says that it is one of this epoch.
func decode(b []byte, epoch uint64) (r record, ok bool) {
	if binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:recordSize], castagnoli) || binary.LittleEndian.Uint32(b[44:]) != uint32(epoch) {
		return r, false
	}
	return record{
		kind: b[4], mask: b[5], seq: binary.LittleEndian.Uint64(b[8:]), unit: int64(binary.LittleEndian.Uint64(b[16:])),
		count: int64(binary.LittleEndian.Uint64(b[24:])), slot: int64(binary.LittleEndian.Uint64(b[32:])), sum: binary.LittleEndian.Uint32(b[40:]),
	}, true
}

// maxSlots bounds slots: no file is larger than 2^62 bytes.
const maxSlots = 1 << 50

// check says whether a record can be one of a disk of so many units.
func (r record) check(units int64) error {
	switch {
	case r.kind == kindMarker:
		return nil
	case r.kind != kindData && r.kind != kindZero, r.unit < 0, r.count <= 0, r.unit > units-r.count,
		r.kind == kindData && (r.slot < 0 || r.slot > maxSlots-r.count || r.count > 1 && r.mask != allSectors || r.mask == 0):
		return fmt.Errorf("%w: a record of kind %d for %d units from %d in slot %d", ErrDamaged, r.kind, r.count, r.unit, r.slot)
	}
	return nil
}

// below is what a marker says: records with lower numbers are durable. In overlays of the
// first days it said nothing, and was meant for all before it.
func (r record) below() uint64 {
	if r.unit == 0 {
		return r.seq
	}
	return uint64(r.unit)
}

// extent is how far a journal goes.
type extent struct {
	good int64  // records that are there
	safe uint64 // those with lower numbers are durable
	more bool   // behind a gap there are others
}

// replay calls apply for the records of a journal in their order; tail says that one was
// not called durable. The journal ends where there is no record of its epoch with the next
// number. If one of those that are durable is not readable, that was no end.
func replay(f vdisk.File, h header, units int64, apply func(r record, tail bool) error) (extent, error) {
	x, err := survey(f, h)
	if err != nil {
		return x, err
	}
	buf := make([]byte, 1024*recordSize)
	for n := int64(0); n < x.good; {
		part := buf[:min(int64(len(buf)), (x.good-n)*recordSize)]
		if _, err := f.ReadAt(part, headerSize+n*recordSize); err != nil && !errors.Is(err, io.EOF) {
			return x, err
		}
		for len(part) > 0 {
			r, ok := decode(part, h.epoch)
			err := r.check(units)
			if !ok || err != nil {
				return x, fmt.Errorf("journal at %d: %w", headerSize+n*recordSize, errors.Join(ErrDamaged, err))
			}
			if err := apply(r, n >= h.lines && r.seq >= x.safe); err != nil {
				return x, err
			}
			part, n = part[recordSize:], n+1
		}
	}
	return x, nil
}

// survey looks how far a journal goes.
func survey(f vdisk.File, h header) (x extent, err error) {
	buf := make([]byte, 1024*recordSize)
	var next uint64
	over := false
	for n := int64(0); ; {
		size, err := f.ReadAt(buf, headerSize+n*recordSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return x, err
		}
		size -= size % recordSize
		for part := buf[:size]; len(part) > 0; part = part[recordSize:] {
			r, ok := decode(part, h.epoch)
			over = over || !ok || n > 0 && r.seq != next
			switch marker := r.kind == kindMarker; {
			case over && ok && marker && r.below() > next:
				return x, unreadable(x.good)
			case over:
				x.more = x.more || ok
			default:
				if marker {
					x.safe = max(x.safe, r.below())
				}
				next = r.seq + 1
				x.good++
			}
			n++
		}
		if size < len(buf) {
			if x.good < h.lines {
				return x, unreadable(x.good)
			}
			return x, nil
		}
	}
}

func unreadable(n int64) error {
	return fmt.Errorf("journal at %d: %w: a record is not readable that was durable", headerSize+n*recordSize, ErrDamaged)
}
