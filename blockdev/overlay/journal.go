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
}

func identity(name string) [32]byte { return sha256.Sum256([]byte(name)) }

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[8:], h.epoch)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.size))
	copy(b[24:], h.name[:])
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	return b
}

// readHeader returns the header of a journal, of epoch 0 if there is none: a file that is
// empty, or that was being made when the power went.
func readHeader(f vdisk.File) (header, error) {
	b := make([]byte, headerSize)
	if n, err := f.ReadAt(b, 0); n < headerSize {
		if err == nil || errors.Is(err, io.EOF) {
			return header{}, nil
		}
		return header{}, err
	}
	h := header{epoch: binary.LittleEndian.Uint64(b[8:]), size: int64(binary.LittleEndian.Uint64(b[16:]))}
	copy(h.name[:], b[24:])
	if binary.LittleEndian.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli) || !bytes.HasPrefix(b, []byte(magic)) {
		return header{}, nil
	}
	return h, nil
}

// record is a line of the journal. Of data count units lie in count slots from slot on; mask
// says which sectors of a single unit are there.
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

// replay calls apply for the records of a journal in their order; tail says that one is
// behind the last marker. The journal ends where there is no record of its epoch with the next
// number. If there are such further on, behind which a marker stands, that was no end.
func replay(f vdisk.File, h header, units int64, apply func(r record, tail bool) error) error {
	good, last, err := survey(f, h)
	if err != nil {
		return err
	}
	buf := make([]byte, 1024*recordSize)
	for n := int64(0); n < good; {
		part := buf[:min(int64(len(buf)), (good-n)*recordSize)]
		if _, err := f.ReadAt(part, headerSize+n*recordSize); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for len(part) > 0 {
			r, ok := decode(part, h.epoch)
			err := r.check(units)
			if !ok || err != nil {
				return fmt.Errorf("journal at %d: %w", headerSize+n*recordSize, errors.Join(ErrDamaged, err))
			}
			if err := apply(r, n > last); err != nil {
				return err
			}
			part, n = part[recordSize:], n+1
		}
	}
	return nil
}

// survey counts the good records at the front, and finds the last marker among them; -1 if
// there is none.
func survey(f vdisk.File, h header) (good, last int64, err error) {
	buf := make([]byte, 1024*recordSize)
	last = -1
	broken := false
	var next uint64
	for n := int64(0); ; {
		size, err := f.ReadAt(buf, headerSize+n*recordSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		size -= size % recordSize
		for part := buf[:size]; len(part) > 0; part = part[recordSize:] {
			r, ok := decode(part, h.epoch)
			switch {
			case broken && ok && r.kind == kindMarker && r.seq > next:
				return 0, 0, fmt.Errorf("journal at %d: %w: a record is not readable that a later one calls durable", headerSize+good*recordSize, ErrDamaged)
			case broken:
			case !ok || n > 0 && r.seq != next:
				broken = true
			default:
				if good, next = n+1, r.seq+1; r.kind == kindMarker {
					last = n
				}
			}
			n++
		}
		if size < len(buf)-recordSize {
			return good, last, nil
		}
	}
}
