// Package parts is the table of a pack's footer that says where chunks in parts
// belong.
//
// [Append] writes the table, [Parse] reads it, [Check] is the rule for one chunk's
// parts that both sides keep to. Package vault calls all three, for a pack's writer
// and its reader.
//
// Words. A *splice* is a chunk made of bytes that lie apart on a disk, one behind the
// other; a *part* is one run of those bytes. A [Range] is where a part lies.
//
// What is guaranteed: the table of given parts has one form, so what is read and
// written again is the same bytes; memory is taken only for ranges whose bytes are
// there. What is not: whether the bytes were read there, only the pack's seal says.
//
// The format is in docs/format/pack.md.
package parts

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/millrace-backup/millrace/vault/frame"
)

// ErrDamaged: these bytes are no such table; package vault uses the same one.
var ErrDamaged = frame.ErrDamaged

// Sizes in bytes, and the most ranges of a table.
const (
	Max        = 1 << 18 // 3 MiB
	countSize  = 4
	spliceSize = 4 + 2
	rangeSize  = 8 + 4
)

// Range is a place on a disk, in bytes.
type Range struct {
	Offset int64
	Length uint32
}

// Size is how long a table is.
func Size(splices, ranges int) int { return countSize + splices*spliceSize + ranges*rangeSize }

// Check refuses parts that are not two or more, in order and apart, or not those
// of a chunk of raw bytes that begins at.
func Check(p []Range, at int64, raw uint32) error {
	if len(p) < 2 || len(p) > math.MaxUint16 {
		return fmt.Errorf("%d parts", len(p))
	}
	if p[0].Offset != at {
		return fmt.Errorf("parts from %d on, of a chunk from %d on", p[0].Offset, at)
	}
	end, sum := int64(-1), int64(0)
	for n, r := range p {
		if r.Offset <= end || r.Length == 0 || r.Offset > math.MaxInt64-int64(r.Length) {
			return fmt.Errorf("part %d of %d bytes at %d, behind one that ends at %d", n, r.Length, r.Offset, end)
		}
		end = r.Offset + int64(r.Length)
		sum += int64(r.Length)
	}
	if sum != int64(raw) {
		return fmt.Errorf("parts of %d bytes, of a chunk of %d", sum, raw)
	}
	return nil
}

// Append writes the table of a pack of that many chunks; of(n) are the parts of
// chunk n, nil if it has none:
//
//	splices u32 ‖ {chunk u32, ranges u16, {guest offset u64, length u32}…}…
func Append(b []byte, chunks int, of func(n int) []Range) []byte {
	head, count := len(b), uint32(0)
	b = append(b, 0, 0, 0, 0)
	for n := range chunks {
		p := of(n)
		if p == nil {
			continue
		}
		count++
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		for _, r := range p {
			b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
			b = binary.BigEndian.AppendUint32(b, r.Length)
		}
	}
	binary.BigEndian.PutUint32(b[head:], count)
	return b
}

// Parse reads what Append wrote, all of b, and gives each splice's parts to take,
// which checks them. ErrDamaged if b is no such table or take refuses.
func Parse(b []byte, chunks int, take func(n int, p []Range) error) error {
	if len(b) < countSize {
		return fmt.Errorf("table of parts of %d bytes: %w", len(b), ErrDamaged)
	}
	count, next, ranges := int64(binary.BigEndian.Uint32(b)), int64(0), 0
	b = b[countSize:]
	if count > int64(chunks) {
		return fmt.Errorf("%d of %d chunks are in parts: %w", count, chunks, ErrDamaged)
	}
	for range count {
		if len(b) < spliceSize {
			return fmt.Errorf("the table of parts ends early: %w", ErrDamaged)
		}
		number, n := int64(binary.BigEndian.Uint32(b)), int(binary.BigEndian.Uint16(b[4:]))
		b = b[spliceSize:]
		ranges += n
		if number < next || number >= int64(chunks) || ranges > Max || len(b) < n*rangeSize {
			return fmt.Errorf("chunk %d in %d parts: %w", number, n, ErrDamaged)
		}
		next = number + 1
		p := make([]Range, n)
		for i := range p {
			p[i] = Range{int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:])}
			b = b[rangeSize:]
		}
		if err := take(int(number), p); err != nil {
			return fmt.Errorf("chunk %d: %w: %w", number, err, ErrDamaged)
		}
	}
	if len(b) != 0 {
		return fmt.Errorf("%d bytes behind the table of parts: %w", len(b), ErrDamaged)
	}
	return nil
}
