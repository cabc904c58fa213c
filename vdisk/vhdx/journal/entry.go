package journal

import (
	"encoding/binary"

	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// Entry is an entry to be written into a ring.
type Entry struct {
	GUID     layout.GUID // of the log, as the header has it
	Sequence uint64      // one higher than the entry's before, never 0
	Tail     uint32      // place in the ring of the oldest entry that is still needed
	Flushed  int64       // size that the file durably has
	Last     int64       // size that it has after the changes
	Sectors  []Sector
}

// Sector is 4 KiB of the file.
type Sector struct {
	Offset int64 // a multiple of 4 KiB
	Bytes  []byte
}

// Size is how many bytes an entry with so many sectors takes.
func Size(sectors int) int {
	head := 1
	if more := sectors - inFirst; more > 0 {
		perSector := int(layout.SectorSize) / descriptorSize
		head += (more + perSector - 1) / perSector
	}
	return (head + sectors) * int(layout.SectorSize)
}

// Bytes is the entry as it is stored. Section 2.3.1.
func (e Entry) Bytes() []byte {
	le := binary.LittleEndian
	b := make([]byte, Size(len(e.Sectors)))
	copy(b, "loge")
	le.PutUint32(b[8:], uint32(len(b)))
	le.PutUint32(b[12:], e.Tail)
	le.PutUint64(b[16:], e.Sequence)
	le.PutUint32(b[24:], uint32(len(e.Sectors)))
	copy(b[32:], e.GUID[:])
	le.PutUint64(b[48:], uint64(e.Flushed))
	le.PutUint64(b[56:], uint64(e.Last))
	data := b[len(b)-len(e.Sectors)*int(layout.SectorSize):]
	for i, s := range e.Sectors {
		// The sector lends its first 8 and last 4 bytes to the log's own marks;
		// the descriptor keeps them.
		d := b[entryHeaderSize+i*descriptorSize:]
		copy(d, "desc")
		copy(d[4:8], s.Bytes[4092:])
		copy(d[8:16], s.Bytes[:8])
		le.PutUint64(d[16:], uint64(s.Offset))
		le.PutUint64(d[24:], e.Sequence)
		out := data[i*int(layout.SectorSize):]
		copy(out, "data")
		le.PutUint32(out[4:], uint32(e.Sequence>>32))
		copy(out[8:4092], s.Bytes[8:4092])
		le.PutUint32(out[4092:], uint32(e.Sequence))
	}
	le.PutUint32(b[4:], layout.Checksum(b))
	return b
}
