// Package journal is the log of a VHDX file: a ring of entries, each a set of
// 4 KiB sectors to write and ranges to zero, by which changes of the file's
// structures become whole or do not happen. Section 2.3 of the specification.
//
// [Read] finds what a log that was left behind has to change; who reads the file
// lays it over it, who opens it for writing makes it so. [Entry] is what a writer
// puts into the ring. The package writes nothing itself: the order in which
// entries, structures and headers reach the disk is vdisk/vhdx/inplace's.
//
// A ring is bytes that anybody may have made. It is read into memory once, at most
// layout.MaxLogSize, and what is to be replayed lies in there: beside it there are
// 40 bytes for each change, of which there may be MaxChanges. Time is that of a few
// passes over the ring.
package journal

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

const (
	entryHeaderSize = 64 // section 2.3.1.1
	descriptorSize  = 32 // sections 2.3.1.2 and 2.3.1.3

	// MaxChanges is how many changes a log may make. The largest one has room for
	// 16 Ki sectors; more can only be ranges to zero, of which writers use few.
	MaxChanges = 256 << 10

	inFirst = (int(layout.SectorSize) - entryHeaderSize) / descriptorSize // descriptors beside the header
)

// ring is the log's bytes in memory.
type ring struct {
	b    []byte
	guid layout.GUID
	work int // bytes that may still be checksummed, see entry
}

// entry is one valid log entry.
type entry struct {
	ring        []byte // that it is in, and may wrap in
	at, length  int    // its place
	sequence    uint64
	tail        int // place of the oldest entry to replay with this one
	descriptors int
	flushed     int64 // the file had at least this size when it was written
	last        int64 // and needs at least this one after replay
}

// Changes is what a log has to change, oldest first.
type Changes struct {
	Patches []overlay.Patch
	Size    int64 // the file has at least this size afterwards
}

// Read returns the changes that the log of a file holds; none when the header
// says that it is empty.
func Read(file vdisk.Image, h layout.Header) (Changes, error) {
	if h.LogGUID.IsZero() {
		return Changes{}, nil
	}
	if h.LogOffset+h.LogLength > file.Size() {
		return Changes{}, vdisk.Truncated("log of %d bytes at %d, file ends at %d", h.LogLength, h.LogOffset, file.Size())
	}
	r := newRing(make([]byte, h.LogLength), h.LogGUID)
	if err := vdisk.ReadFull(file, r.b, h.LogOffset); err != nil {
		return Changes{}, fmt.Errorf("read log: %w", err)
	}
	active, err := r.active()
	if err != nil {
		return Changes{}, err
	}
	head := active[len(active)-1]
	if file.Size() < head.flushed {
		return Changes{}, vdisk.Truncated("log says the file has %d bytes, it ends at %d", head.flushed, file.Size())
	}
	if head.last > layout.MaxFileSize {
		return Changes{}, vdisk.BadFormat("log extends the file to %d bytes", head.last)
	}
	changes := 0
	for _, e := range active {
		changes += e.descriptors
	}
	if changes > MaxChanges {
		return Changes{}, vdisk.Unsupported("a log of %d changes, at most %d are replayed; let Hyper-V open the disk once, which empties the log", changes, MaxChanges)
	}
	out := Changes{Size: head.last, Patches: make([]overlay.Patch, 0, changes)}
	for _, e := range active {
		if out.Patches, err = e.patches(out.Patches); err != nil {
			return Changes{}, err
		}
	}
	return out, nil
}

func newRing(b []byte, id layout.GUID) *ring { return &ring{b: b, guid: id, work: 16 * len(b)} }

// active returns the entries to replay, oldest first: of all runs of entries
// whose newest names an oldest inside the run, the one that ends with the
// highest sequence number. Section 2.3.2.
func (r *ring) active() ([]entry, error) {
	var best []entry
	for start := 0; start < len(r.b); {
		run, length := r.run(start)
		if r.work < 0 {
			return nil, vdisk.BadFormat("log entries overlap too often")
		}
		if len(run) == 0 {
			start += int(layout.SectorSize)
			continue
		}
		start += length
		head := run[len(run)-1]
		if len(best) > 0 && head.sequence <= best[len(best)-1].sequence {
			continue
		}
		for i, e := range run {
			if e.at == head.tail {
				best = run[i:]
				break
			}
		}
	}
	if len(best) == 0 {
		return nil, vdisk.BadFormat("log is to be replayed and has no valid sequence of entries: what the disk was cannot be told")
	}
	return best, nil
}

// run returns the valid entries that follow each other from start on, each
// numbered one higher than the one before, and their length in bytes.
func (r *ring) run(start int) (entries []entry, length int) {
	for length < len(r.b) {
		e, ok := r.entry((start + length) % len(r.b))
		if !ok || e.length > len(r.b)-length {
			break
		}
		if n := len(entries); n > 0 && e.sequence != entries[n-1].sequence+1 {
			break
		}
		entries = append(entries, e)
		length += e.length
	}
	return entries, length
}

// entry returns the entry at a place in the ring if it is valid. Only bytes
// that look like an entry are checksummed, and the sum of that is limited: in
// a log that was really written an entry is seen once or twice, but a made-up
// one may nest thousands of them.
func (r *ring) entry(at int) (entry, bool) {
	h := r.b[at:][:entryHeaderSize]
	e := entry{
		ring: r.b, at: at,
		length:      int(binary.LittleEndian.Uint32(h[8:])),
		sequence:    binary.LittleEndian.Uint64(h[16:]),
		tail:        int(binary.LittleEndian.Uint32(h[12:])),
		descriptors: int(binary.LittleEndian.Uint32(h[24:])),
		flushed:     int64(binary.LittleEndian.Uint64(h[48:])),
		last:        int64(binary.LittleEndian.Uint64(h[56:])),
	}
	if string(h[:4]) != "loge" || layout.GUID(h[32:48]) != r.guid || e.sequence == 0 ||
		e.length == 0 || e.length%int(layout.SectorSize) != 0 || e.length > len(r.b) ||
		e.tail%int(layout.SectorSize) != 0 || e.flushed < 0 || e.last < 0 ||
		entryHeaderSize+e.descriptors*descriptorSize > e.length {
		return entry{}, false
	}
	if r.work -= e.length; r.work < 0 {
		return entry{}, false
	}
	first := r.b[at:min(at+e.length, len(r.b))]
	sum := layout.Checksum(first, r.b[:e.length-len(first)])
	return e, sum == binary.LittleEndian.Uint32(h[4:]) && e.whole()
}

// whole reports whether every descriptor and data sector of the entry belongs
// to it.
func (e entry) whole() bool {
	data := 0
	for i := range e.descriptors {
		d := e.descriptor(i)
		switch string(d[:4]) {
		case "zero":
		case "desc":
			s, ok := e.data(data)
			if !ok || string(s[:4]) != "data" ||
				uint64(binary.LittleEndian.Uint32(s[4:]))<<32|uint64(binary.LittleEndian.Uint32(s[4092:])) != e.sequence {
				return false
			}
			data++
		default:
			return false
		}
		if binary.LittleEndian.Uint64(d[24:]) != e.sequence {
			return false
		}
	}
	return true
}

// descriptor returns a descriptor. None lies across the end of the ring, because
// sectors do not.
func (e entry) descriptor(i int) []byte {
	return e.ring[(e.at+entryHeaderSize+i*descriptorSize)%len(e.ring):][:descriptorSize]
}

// data returns the entry's data sector number i. They follow the sectors that
// hold the descriptors, in the order of their descriptors. Section 2.3.1.4.
func (e entry) data(i int) ([]byte, bool) {
	sector := int(layout.SectorSize)
	at := (entryHeaderSize+e.descriptors*descriptorSize+sector-1)/sector*sector + i*sector
	if at+sector > e.length {
		return nil, false
	}
	return e.ring[(e.at+at)%len(e.ring):][:sector:sector], true
}

// patches appends what the entry changes. Its data are made whole where they lie
// in the ring, so that it can be asked only once.
func (e entry) patches(list []overlay.Patch) ([]overlay.Patch, error) {
	data := 0
	for i := range e.descriptors {
		d := e.descriptor(i)
		p := overlay.Patch{Offset: int64(binary.LittleEndian.Uint64(d[16:]))}
		length := layout.SectorSize
		if string(d[:4]) == "zero" {
			length = int64(binary.LittleEndian.Uint64(d[8:]))
		} else {
			// The sector lent its first 8 and last 4 bytes to the log's own
			// marks; the descriptor keeps them.
			p.Data, _ = e.data(data)
			data++
			copy(p.Data, d[8:16])
			copy(p.Data[4092:], d[4:8])
		}
		if p.Offset < 0 || length < 0 || p.Offset%layout.SectorSize != 0 || length%layout.SectorSize != 0 ||
			p.Offset > layout.MaxFileSize || length > layout.MaxFileSize-p.Offset {
			return nil, vdisk.BadFormat("log entry %d changes %d bytes at %d", e.sequence, length, p.Offset)
		}
		if p.End = p.Offset + length; length > 0 {
			list = append(list, p)
		}
	}
	return list, nil
}
