package indexer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
)

// spool is what the state has in files of the job's folder, because it grows with
// the disks: where chunks went, the rows of parcels, a digest of each. A restarted
// indexer makes them again from the journal.
type spool struct {
	stored  *chunkindex.Growing // chunks in this job's packs; delta workers follow it
	rows    *spill.Log          // a block per parcel, and runs of the disks' indexes
	digests *digests
}

// StoredFolder is where, in a job's folder, the index of what it stored grows.
const StoredFolder = "stored"

// spoolFolder is where the rest of the spool is.
const spoolFolder = "indexer"

func openSpool(folder string, chunks int) (*spool, error) {
	if err := os.MkdirAll(filepath.Join(folder, spoolFolder), 0o700); err != nil {
		return nil, fmt.Errorf("make the indexer's folder: %w", err)
	}
	s := &spool{}
	var err error
	if s.stored, err = chunkindex.Grow(filepath.Join(folder, StoredFolder), chunks); err != nil {
		return nil, err
	}
	if s.rows, err = spill.Create(filepath.Join(folder, spoolFolder, "rows")); err != nil {
		return nil, err
	}
	s.digests, err = openDigests(filepath.Join(folder, spoolFolder, "digests"))
	return s, err
}

func (s *spool) close() error {
	return errors.Join(s.stored.Close(), s.rows.Close(), s.digests.f.Close())
}

// place is where a chunk is: in which of the state's packs.
type place struct{ pack, offset, stored, raw uint32 }

// row is a range that differs from the parent: zero, or some of a chunk.
type row struct {
	offset, length uint32 // in the parcel
	zero           bool
	chunk          id.Chunk
	from           uint32 // in the chunk
	place
}

const rowBytes = 4 + 4 + 1 + 32 + 4 + 4*4

// appendRow encodes: offset, length u32 ‖ zero u8 ‖ chunk 32 ‖ from, pack, offset,
// stored, raw u32, little-endian.
func appendRow(b []byte, r row) []byte {
	b = binary.LittleEndian.AppendUint32(b, r.offset)
	b = binary.LittleEndian.AppendUint32(b, r.length)
	zero := byte(0)
	if r.zero {
		zero = 1
	}
	b = append(append(b, zero), r.chunk[:]...)
	for _, n := range [...]uint32{r.from, r.pack, r.place.offset, r.stored, r.raw} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

func decodeRow(b []byte) (r row) {
	n := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	r.offset, r.length, r.zero = n(0), n(4), b[8] != 0
	copy(r.chunk[:], b[9:])
	r.from, r.place = n(41), place{n(45), n(49), n(53), n(57)}
	return r
}

// Where the rows of a disk's parcels are: parcel number u32 ‖ place in the log u64,
// big-endian, so that they sort by number.
const (
	parcelBytes  = 4 + 8
	parcelBudget = 96 << 10 // bytes in memory for each disk: 32 GiB of it
)

// keep writes the rows of a parcel, if it has any.
func (s *state) keep(d *disk, number uint32, rows []byte) error {
	if len(rows) == 0 {
		return nil
	}
	at, err := s.spool.rows.Append(rows)
	if err != nil {
		return err
	}
	if d.parcels == nil {
		d.parcels = spill.NewSorter(s.spool.rows, parcelBytes, parcelBudget)
	}
	var b [parcelBytes]byte
	binary.BigEndian.PutUint32(b[:], number)
	binary.BigEndian.PutUint64(b[4:], uint64(at))
	return d.parcels.Add(b[:])
}

// found lists what the job found of a disk and does not know to be as in the
// parent, in order: chunks, zeros, and holes, which are zeros too. ends takes for
// each pack how far into it chunks reach.
func (s *state) found(n uint32, ends map[uint32]int64) func(context.Context) iter.Seq2[table.MapPiece, error] {
	d := &s.disks[n]
	size, parcel := s.work.Disks[n].Info.VirtualSize, s.work.ParcelSize
	return func(context.Context) iter.Seq2[table.MapPiece, error] {
		return func(yield func(table.MapPiece, error) bool) {
			next, stop := iter.Pull2(d.blocks())
			defer stop()
			at, err, more := next()
			var room []byte
			for k := range s.work.Parcels(int(n)) {
				start := int64(k) * parcel
				if !d.has(k) && !yield(table.MapPiece{Offset: start, Length: min(parcel, size-start), Zero: true}, nil) {
					return
				}
				if err == nil && (!more || at.number != k) {
					continue
				}
				if err == nil {
					room, err = s.spool.rows.Read(at.block, room)
				}
				if err != nil || len(room)%rowBytes != 0 {
					yield(table.MapPiece{}, fmt.Errorf("rows of parcel %d: %w", k, errors.Join(err, spill.ErrDamaged)))
					return
				}
				for b := room; len(b) > 0; b = b[rowBytes:] {
					if !yield(s.piece(start, decodeRow(b), ends), nil) {
						return
					}
				}
				at, err, more = next()
			}
		}
	}
}

// blockOf is where the rows of a parcel are.
type blockOf struct {
	number uint32
	block  int64
}

func (d *disk) blocks() iter.Seq2[blockOf, error] {
	return func(yield func(blockOf, error) bool) {
		if d.parcels == nil {
			return
		}
		for b, err := range d.parcels.Sorted() {
			var o blockOf
			if err == nil {
				o = blockOf{binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint64(b[4:]))}
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

// piece is a row with the place of its chunk.
func (s *state) piece(start int64, r row, ends map[uint32]int64) table.MapPiece {
	p := table.MapPiece{Offset: start + int64(r.offset), Length: int64(r.length), Zero: r.zero}
	if r.zero {
		return p
	}
	k := &s.packs[r.pack]
	if ends != nil {
		ends[r.pack] = max(ends[r.pack], int64(r.place.offset)+int64(r.stored))
	}
	p.Chunk, p.ChunkOffset, p.Domain, p.Pack = r.chunk, int64(r.from), s.work.Domain, table.PackRef{Job: k.job, Name: k.Name}
	p.PackOffset, p.Stored, p.Raw = r.place.offset, r.stored, r.raw
	return p
}

// digest stands for the bytes of a parcel.
type digest [16]byte

// digestOf is the parcel's own sum, which does not depend on how it was cut; of
// one without, what its pieces are.
func digestOf(p *flow.Parcel) (d digest) {
	if len(p.Sum) == len(d) {
		return digest(p.Sum)
	}
	h := sha256.New()
	var b [9]byte
	for i := range p.Pieces {
		x := &p.Pieces[i]
		binary.LittleEndian.PutUint32(b[:], x.Offset)
		binary.LittleEndian.PutUint32(b[4:], x.Length)
		b[8] = 0
		if x.Zero {
			b[8] = 1
		}
		h.Write(b[:])
		h.Write(x.Chunk[:])
	}
	return digest(h.Sum(nil))
}

// digests keeps a digest for each parcel of the job in a file: digest 16 ‖ CRC-32C
// u32. Which parcels are read twice may be known only after they have come.
type digests struct{ f *os.File }

const digestBytes = 16 + 4

func openDigests(path string) (*digests, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the digests of parcels: %w", err)
	}
	return &digests{f}, nil
}

func (x *digests) put(n uint64, d digest) error {
	var b [digestBytes]byte
	copy(b[:], d[:])
	binary.LittleEndian.PutUint32(b[16:], crc32.Checksum(d[:], crc32.MakeTable(crc32.Castagnoli)))
	if _, err := x.f.WriteAt(b[:], int64(n)*digestBytes); err != nil {
		return fmt.Errorf("write %s: %w", x.f.Name(), err)
	}
	return nil
}

func (x *digests) get(n uint64) (digest, error) {
	var b [digestBytes]byte
	if _, err := x.f.ReadAt(b[:], int64(n)*digestBytes); err != nil {
		return digest{}, fmt.Errorf("read %s: %w", x.f.Name(), err)
	}
	if castagnoli(b[:16]) != binary.LittleEndian.Uint32(b[16:]) {
		return digest{}, fmt.Errorf("read %s: parcel %d: %w", x.f.Name(), n, spill.ErrDamaged)
	}
	return digest(b[:16]), nil
}
