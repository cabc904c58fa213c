package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/parts"
	"github.com/millrace-backup/millrace/vault/store"
)

// tailProbe is what ReadPackFooter reads first: the footers of nearly all packs
// fit, with the trailer, into one read.
const tailProbe = 128 << 10

// ReadPackFooter reads what is in a pack without reading its chunks: two or three
// ranged reads. It needs PartMeta. ErrDamaged if header, trailer or footer are not
// this vault's, this job's or each other's; whether the chunks are whole, and
// whether name is the hash of the bytes, only reading them all tells.
func ReadPackFooter(ctx context.Context, st store.Store, k *Keys, job id.Job, name id.Object) (PackInfo, error) {
	object := PackName(job, name)
	e, err := store.Stat(ctx, st, object)
	if err != nil {
		return PackInfo{}, fmt.Errorf("read pack footer: %w", err)
	}
	if e.Size < int64(packHeader+packTrailer) || e.Size > MaxPack {
		return PackInfo{}, damaged(object, "a pack of %d bytes", e.Size)
	}
	header := make([]byte, packHeader)
	if err := readAt(ctx, st, object, 0, header); err != nil {
		return PackInfo{}, err
	}
	tail := make([]byte, min(e.Size, tailProbe))
	if err := readAt(ctx, st, object, e.Size-int64(len(tail)), tail); err != nil {
		return PackInfo{}, err
	}
	length, sum, err := parseTrailer(tail[len(tail)-packTrailer:], e.Size)
	if err != nil {
		return PackInfo{}, fmt.Errorf("%s: %w", object, err)
	}
	if need := length + packTrailer; need > len(tail) {
		tail = make([]byte, need)
		if err := readAt(ctx, st, object, e.Size-int64(need), tail); err != nil {
			return PackInfo{}, err
		}
	}
	footer := tail[len(tail)-packTrailer-length : len(tail)-packTrailer]
	if crc32.Checksum(footer, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return PackInfo{}, damaged(object, "its footer has another checksum")
	}
	info := PackInfo{Name: name, Size: e.Size}
	if err := openFooter(&info, k, job, header, footer); err != nil {
		return PackInfo{}, fmt.Errorf("%s: %w", object, err)
	}
	return info, nil
}

func readAt(ctx context.Context, st store.Store, object string, off int64, buf []byte) error {
	_, err := st.Get(ctx, object, off, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged(object, "it ends before byte %d", off+int64(len(buf)))
	}
	if err != nil {
		return fmt.Errorf("read pack: %w", err)
	}
	return nil
}

// parseTrailer returns length and checksum of the footer of a pack of size bytes.
func parseTrailer(t []byte, size int64) (length int, sum uint32, err error) {
	if len(t) != packTrailer || string(t[8:]) != packEnd {
		return 0, 0, fmt.Errorf("no pack ends here: %w", ErrDamaged)
	}
	n := binary.BigEndian.Uint32(t)
	if int64(n) > maxFooter || int64(n) < Overhead || int64(n) > size-int64(packHeader+packTrailer) {
		return 0, 0, fmt.Errorf("footer of %d bytes: %w", n, ErrDamaged)
	}
	return int(n), binary.BigEndian.Uint32(t[4:]), nil
}

// openFooter checks header against vault and job, opens the footer and fills
// info, whose Size is set.
func openFooter(info *PackInfo, k *Keys, job id.Job, header, footer []byte) error {
	if err := parsePackHeader(info, k.Vault(), header); err != nil {
		return err
	}
	if info.Job != job {
		return fmt.Errorf("the pack is of job %s: %w", info.Job, ErrDamaged)
	}
	end := info.Size - int64(packTrailer+len(footer))
	plain, err := k.OpenMeta(nil, TypePackFooter, footerBinding(header, end), footer)
	if err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	return parseFooter(info, plain, end)
}

func parsePackHeader(info *PackInfo, v id.Vault, h []byte) error {
	if len(h) != packHeader || string(h[:len(packMagic)]) != packMagic {
		return fmt.Errorf("no pack begins here: %w", ErrDamaged)
	}
	h = h[len(packMagic):]
	format := binary.BigEndian.Uint16(h)
	if format > packParts {
		return fmt.Errorf("the pack has format %d, this program knows up to %d: %w", format, packParts, ErrNewer)
	} else if format < packWhole {
		return fmt.Errorf("format %d: %w", format, ErrDamaged)
	}
	info.InParts = format == packParts
	if got := id.Vault(h[2:34]); got != v {
		return fmt.Errorf("the pack is of vault %s: %w", got, ErrDamaged)
	}
	info.Domain = id.Domain(h[34:50])
	info.Job = id.Job(h[50:66])
	info.DataKey = binary.BigEndian.Uint32(h[66:70])
	return nil
}

// parseFooter reads the opened footer of a pack whose chunks end at end.
func parseFooter(info *PackInfo, b []byte, end int64) error {
	if len(b) < 2 {
		return fmt.Errorf("footer of %d bytes: %w", len(b), ErrDamaged)
	}
	disks := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if disks > maxPackDisks || len(b) < disks*diskSize+4 {
		return fmt.Errorf("footer of %d disks: %w", disks, ErrDamaged)
	}
	info.Disks = make([]PackDisk, disks)
	for i := range info.Disks {
		info.Disks[i] = PackDisk{id.Guest(b[:16]), id.Disk(b[16:32])}
		b = b[diskSize:]
	}
	entries := int64(binary.BigEndian.Uint32(b))
	b = b[4:]
	if entries < 1 || entries > MaxPackEntries || int64(len(b)) < entries*entrySize || !info.InParts && int64(len(b)) != entries*entrySize {
		return fmt.Errorf("footer of %d chunks in %d bytes: %w", entries, len(b), ErrDamaged)
	}
	info.Entries = make([]PackEntry, entries)
	at := int64(packHeader)
	for i := range info.Entries {
		e, ok := parseEntry(b[:entrySize], disks)
		if !ok || int64(e.Offset) != at || at+int64(e.Stored) > end {
			return fmt.Errorf("footer: chunk %d lies at %d for %d bytes: %w", i, e.Offset, e.Stored, ErrDamaged)
		}
		info.Entries[i] = e
		at += int64(e.Stored)
		b = b[entrySize:]
	}
	if at != end {
		return fmt.Errorf("footer: chunks end at %d, not at %d: %w", at, end, ErrDamaged)
	}
	if info.InParts {
		return parts.Parse(b, len(info.Entries), func(n int, p []PackRange) error {
			e := &info.Entries[n]
			e.Parts = p
			return parts.Check(p, e.GuestOffset, e.Raw)
		})
	}
	return nil
}

func parseEntry(b []byte, disks int) (PackEntry, bool) {
	offset := binary.BigEndian.Uint64(b[34:])
	e := PackEntry{
		Chunk:       id.Chunk(b[:32]),
		Disk:        binary.BigEndian.Uint16(b[32:]),
		GuestOffset: int64(offset),
		Offset:      binary.BigEndian.Uint32(b[42:]),
		Stored:      binary.BigEndian.Uint32(b[46:]),
		Raw:         binary.BigEndian.Uint32(b[50:]),
	}
	ok := int(e.Disk) < disks && offset <= math.MaxInt64 && e.Stored >= Overhead && e.Raw > 0 && e.Raw <= MaxChunk
	return e, ok
}
