package vault

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/parts"
	"github.com/millrace-backup/millrace/vault/store"
)

// A pack, integers big-endian; docs/format/pack.md has an example byte by byte:
//
//	header   "MRPACK" ‖ format u16 ‖ vault 32 ‖ domain 16 ‖ job 16 ‖ Tink data key id u32 ‖ UID 16
//	chunks   sealed chunks, back to back
//	footer   sealed: disks u16 ‖ {guest 16, disk 16}… ‖ entries u32 ‖
//	         {chunk 32, disk u16, guest offset u64, offset u32, stored u32, raw u32}…
//	         ‖ in format 2, the places of chunks in parts (package parts)
//	trailer  footer length u32 ‖ CRC-32C of the sealed footer u32 ‖ "MRPACKED"
//
// The footer is bound to the header and to its own offset; the random UID in the
// header keeps the footer of one pack from being believed under another.
const (
	packMagic   = "MRPACK"
	packEnd     = "MRPACKED"
	packHeader  = len(packMagic) + 2 + 32 + 16 + 16 + 4 + 16
	packTrailer = 4 + 4 + len(packEnd)
	diskSize    = 16 + 16
	entrySize   = 32 + 2 + 8 + 4 + 4 + 4
)

// The formats of a pack, as its header has them. A pack of chunks that were each
// read in one place is of the first, so that the first readers keep reading it.
const packWhole, packParts = 1, 2

const (
	// PackTarget is the size in bytes at which a writer should close a pack.
	PackTarget = 32 << 20
	// MaxPack is the size in bytes that no pack exceeds.
	MaxPack = 64 << 20
	// MaxPackEntries is the most chunks a pack holds, and the most disks.
	MaxPackEntries = 1 << 16 // so the footer stays below 10 MiB
	// MaxPackRanges is the most places that the chunks in parts of a pack have together.
	MaxPackRanges = parts.Max
	maxPackDisks  = 1 << 12
	maxFooter     = 2 + 4 + maxPackDisks*diskSize + MaxPackEntries*(entrySize+6) + 4 + MaxPackRanges*12 + Overhead
)

// PackPrefix is where the packs of job lie.
func PackPrefix(job id.Job) string { return "packs/" + job.String() + "/" }

// PackName is the name of the object that holds a pack.
func PackName(job id.Job, pack id.Object) string { return PackPrefix(job) + pack.String() }

// PackDisk names one disk that chunks of a pack were read from.
type PackDisk struct {
	Guest id.Guest
	Disk  id.Disk
}

// PackEntry is one chunk of a pack. All sizes are bytes.
type PackEntry struct {
	Chunk       id.Chunk
	Disk        uint16 // index into the pack's disks
	GuestOffset int64  // where on that disk the chunk, or its first part, was read first
	Offset      uint32 // of the sealed bytes, from the start of the pack
	Stored      uint32 // length of the sealed bytes
	Raw         uint32 // length of the chunk
	// Parts are where a splice's bytes were read: two or more places in order, apart,
	// Raw bytes in all, the first at GuestOffset. Nil for a chunk read in one place.
	Parts []PackRange
}

// Places is where on its disk the chunk's bytes were read, in their order.
func (e *PackEntry) Places() []PackRange {
	if e.Parts != nil {
		return e.Parts
	}
	return []PackRange{{Offset: e.GuestOffset, Length: e.Raw}}
}

// PackInfo is a pack as its footer tells. Entries are in order of Offset and
// cover the pack's chunks without a gap.
type PackInfo struct {
	Name    id.Object // SHA-256 of the whole object
	Job     id.Job
	Domain  id.Domain
	DataKey uint32 // Tink id of the primary data key when it was written
	InParts bool   // format 2: it may hold chunks in parts
	Size    int64
	Entries []PackEntry
	Disks   []PackDisk
}

// PackWriter writes one pack. It streams where the store can; nothing is visible
// before Close returns. One goroutine.
type PackWriter struct {
	keys    *Keys
	up      store.Upload
	sum     hash.Hash
	header  []byte
	info    PackInfo
	disks   map[PackDisk]uint16
	splices int   // entries in parts
	ranges  int   // places of those
	stopped error // the first failed write, or that it is over
}

// NewPackWriter begins a pack of chunks of domain d for job. It needs PartMeta
// and PartData. Call Close or Abort in the end. The pack takes chunks that were
// each read in one place.
func NewPackWriter(ctx context.Context, st store.Store, k *Keys, job id.Job, d id.Domain) (*PackWriter, error) {
	return newPackWriter(ctx, st, k, PackInfo{Job: job, Domain: d})
}

// NewPartsWriter is NewPackWriter for a pack that takes chunks in parts too. What
// it writes is of format 2, which it has to say before the first chunk.
func NewPartsWriter(ctx context.Context, st store.Store, k *Keys, job id.Job, d id.Domain) (*PackWriter, error) {
	return newPackWriter(ctx, st, k, PackInfo{Job: job, Domain: d, InParts: true})
}

func newPackWriter(ctx context.Context, st store.Store, k *Keys, info PackInfo) (_ *PackWriter, err error) {
	if info.DataKey, err = k.DataKeyID(info.Domain); err != nil {
		return nil, fmt.Errorf("begin pack: %w", err)
	}
	if _, err := k.MetaKeyID(); err != nil {
		return nil, fmt.Errorf("begin pack: %w", err)
	}
	up, err := store.Begin(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("begin pack: %w", err)
	}
	var uid [16]byte
	_, _ = rand.Read(uid[:]) // never fails since Go 1.24
	w := &PackWriter{
		keys: k, up: up, sum: sha256.New(), disks: make(map[PackDisk]uint16),
		header: appendPackHeader(nil, k.Vault(), &info, uid),
		info:   info,
	}
	if err := w.write(w.header); err != nil {
		up.Abort()
		return nil, fmt.Errorf("begin pack: %w", err)
	}
	return w, nil
}

func appendPackHeader(b []byte, v id.Vault, p *PackInfo, uid [16]byte) []byte {
	format := uint16(packWhole)
	if p.InParts {
		format = packParts
	}
	b = append(b, packMagic...)
	b = binary.BigEndian.AppendUint16(b, format)
	b = append(b, v[:]...)
	b = append(b, p.Domain[:]...)
	b = append(b, p.Job[:]...)
	b = binary.BigEndian.AppendUint32(b, p.DataKey)
	return append(b, uid[:]...)
}

func (w *PackWriter) write(b []byte) error {
	if w.stopped != nil {
		return w.stopped
	}
	if _, err := w.up.Write(b); err != nil {
		w.stopped = err
		return err
	}
	w.sum.Write(b)
	w.info.Size += int64(len(b))
	return nil
}

// Add appends a sealed chunk. Of e it takes Chunk, GuestOffset, Raw and Parts; Disk,
// Offset and Stored it fills in itself and returns the offset. ErrPackFull says
// that the chunk does not fit and nothing was written. After any other error the
// pack can only be aborted.
func (w *PackWriter) Add(e PackEntry, disk PackDisk, sealed []byte) (uint32, error) {
	number, known := w.disks[disk]
	disks := len(w.info.Disks)
	if !known {
		number = uint16(disks)
		disks++
	}
	entries, splices, ranges := len(w.info.Entries)+1, w.splices, w.ranges
	if e.Parts != nil {
		splices, ranges = splices+1, ranges+len(e.Parts)
	}
	total := w.info.Size + int64(len(sealed)) + int64(footerSize(disks, entries, splices, ranges)+packTrailer)
	if total > MaxPack || entries > MaxPackEntries || disks > maxPackDisks || ranges > MaxPackRanges {
		return 0, fmt.Errorf("add chunk %s: %w", id.Short(e.Chunk), ErrPackFull)
	}
	if len(sealed) < Overhead || e.Raw == 0 || e.Raw > MaxChunk || e.GuestOffset < 0 {
		return 0, fmt.Errorf("add chunk %s: %d sealed bytes of %d at %d are no chunk", id.Short(e.Chunk), len(sealed), e.Raw, e.GuestOffset)
	}
	if e.Parts != nil {
		if !w.info.InParts {
			return 0, fmt.Errorf("add chunk %s: it is in parts, the pack takes none", id.Short(e.Chunk))
		}
		if err := parts.Check(e.Parts, e.GuestOffset, e.Raw); err != nil {
			return 0, fmt.Errorf("add chunk %s: %w", id.Short(e.Chunk), err)
		}
	}
	e.Disk, e.Offset, e.Stored = number, uint32(w.info.Size), uint32(len(sealed))
	if err := w.write(sealed); err != nil {
		return 0, fmt.Errorf("add chunk %s: %w", id.Short(e.Chunk), err)
	}
	if !known {
		w.disks[disk] = number
		w.info.Disks = append(w.info.Disks, disk)
	}
	w.info.Entries = append(w.info.Entries, e)
	w.splices, w.ranges = splices, ranges
	return e.Offset, nil
}

// Size is the number of bytes written so far, the header included.
func (w *PackWriter) Size() int64 { return w.info.Size }

// Len is the number of chunks added so far.
func (w *PackWriter) Len() int { return len(w.info.Entries) }

// Ranges is the number of places that the chunks in parts added so far have.
func (w *PackWriter) Ranges() int { return w.ranges }

// InParts reports that the pack takes chunks in parts.
func (w *PackWriter) InParts() bool { return w.info.InParts }

// Full reports that the pack has reached its target and should be closed.
func (w *PackWriter) Full() bool {
	return w.info.Size >= PackTarget || len(w.info.Entries) >= MaxPackEntries || w.ranges >= MaxPackRanges
}

// Close writes footer and trailer and makes the pack durable under the hash of
// its bytes. A pack without chunks is an error. When Close fails, the pack does
// not exist, or is there whole under a name nobody knows yet.
func (w *PackWriter) Close(ctx context.Context) (PackInfo, error) {
	defer w.Abort()
	if len(w.info.Entries) == 0 {
		return PackInfo{}, errors.New("close pack: it holds no chunk")
	}
	footer, err := w.keys.SealMeta(nil, TypePackFooter, footerBinding(w.header, w.info.Size), appendFooter(nil, &w.info))
	if err != nil {
		return PackInfo{}, fmt.Errorf("close pack: %w", err)
	}
	tail := appendTrailer(footer, footer)
	if err := w.write(tail); err != nil {
		return PackInfo{}, fmt.Errorf("close pack: %w", err)
	}
	w.info.Name = id.Object(w.sum.Sum(nil))
	name := PackName(w.info.Job, w.info.Name)
	// A name that exists holds these very bytes: an earlier try of the store's.
	if err := w.up.Commit(ctx, name); err != nil && !errors.Is(err, store.ErrExists) {
		return PackInfo{}, fmt.Errorf("close pack %s: %w", name, err)
	}
	return w.info, nil
}

// Abort drops the pack. After Close, or twice, it does nothing.
func (w *PackWriter) Abort() {
	if !errors.Is(w.stopped, errOver) {
		w.stopped = errOver
		w.up.Abort()
	}
}

var errOver = errors.New("the pack is closed")

// footerSize is for either format; the first needs 4 bytes less.
func footerSize(disks, entries, splices, ranges int) int {
	return 2 + disks*diskSize + 4 + entries*entrySize + parts.Size(splices, ranges) + Overhead
}

// footerBinding is the name a footer is sealed under.
func footerBinding(header []byte, offset int64) []byte {
	b := append(make([]byte, 0, packHeader+4), header...)
	return binary.BigEndian.AppendUint32(b, uint32(offset))
}

func appendFooter(b []byte, p *PackInfo) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Disks)))
	for _, d := range p.Disks {
		b = append(b, d.Guest[:]...)
		b = append(b, d.Disk[:]...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.Entries)))
	for _, e := range p.Entries {
		b = append(b, e.Chunk[:]...)
		b = binary.BigEndian.AppendUint16(b, e.Disk)
		b = binary.BigEndian.AppendUint64(b, uint64(e.GuestOffset))
		b = binary.BigEndian.AppendUint32(b, e.Offset)
		b = binary.BigEndian.AppendUint32(b, e.Stored)
		b = binary.BigEndian.AppendUint32(b, e.Raw)
	}
	if p.InParts {
		b = parts.Append(b, len(p.Entries), func(n int) []PackRange { return p.Entries[n].Parts })
	}
	return b
}

func appendTrailer(b, footer []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(footer)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(footer, crc32.MakeTable(crc32.Castagnoli)))
	return append(b, packEnd...)
}
