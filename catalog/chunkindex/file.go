package chunkindex

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"sort"

	"github.com/millrace-backup/millrace/id"
)

// Place is where a chunk lies in the vault.
type Place struct {
	Job    id.Job // the pack's folder
	Pack   id.Object
	Offset uint32 // in the pack
	Stored uint32 // sealed length
	Raw    uint32 // the chunk's own length
}

// Row is a chunk with its place.
type Row struct {
	Chunk id.Chunk
	Place
}

// ErrDamaged: the file is not whole. Build it again.
var ErrDamaged = errors.New("damaged chunk index")

const (
	magic      = "MRCHIX02"
	headBytes  = 8 + 4*4 + 8
	entryBytes = 32 + 4*4 + 4
	packBytes  = 16 + 32 + 4
	perBucket  = 64
	maxBits    = 26
	maxBucket  = 1 << 14 // entries: ids are keyed hashes, so that a larger one is no accident
	maxPacks   = 1 << 24
	maxCovered = 1 << 20
	heldBits   = 19 // a fanout of up to so many bits is held in memory: 2 MiB
)

// MakeTable returns the one table the standard library keeps for this polynomial.
func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// file is an open index file.
type file struct {
	f       *os.File
	bits    uint
	count   uint64
	npacks  uint32
	covers  uint32
	fanout  int64 // offsets of the parts behind the entries
	covered int64
	packs   int64
	held    []uint32 // the fanout, if it is small enough: a look-up reads once less
}

func openFile(path string) (*file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open chunk index: %w", err)
	}
	x := &file{f: f}
	if err := x.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open chunk index %s: %w", path, err)
	}
	return x, nil
}

func (x *file) load() error {
	st, err := x.f.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, headBytes)
	if _, err := x.f.ReadAt(head, 0); err != nil || string(head[:8]) != magic {
		return ErrDamaged
	}
	nbits := binary.LittleEndian.Uint32(head[8:])
	x.npacks, x.covers = binary.LittleEndian.Uint32(head[12:]), binary.LittleEndian.Uint32(head[16:])
	x.count = binary.LittleEndian.Uint64(head[24:])
	if nbits > maxBits || x.npacks > maxPacks || x.covers > maxCovered || x.count > 1<<32-1 {
		return ErrDamaged
	}
	x.bits = uint(nbits)
	x.fanout = headBytes + int64(x.count)*entryBytes
	x.covered = x.fanout + 4<<nbits + 4
	x.packs = x.covered + 32*int64(x.covers)
	if st.Size() != x.packs+packBytes*int64(x.npacks) {
		return fmt.Errorf("%w: %d bytes", ErrDamaged, st.Size())
	}
	want := binary.LittleEndian.Uint32(head[20:])
	binary.LittleEndian.PutUint32(head[20:], 0)
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	sum.Write(head)
	if _, err := io.Copy(sum, io.NewSectionReader(x.f, x.fanout, x.packs-x.fanout)); err != nil {
		return err
	}
	if sum.Sum32() != want {
		return fmt.Errorf("%w: checksum", ErrDamaged)
	}
	return x.hold()
}

func (x *file) hold() error {
	if x.bits > heldBits {
		return nil
	}
	x.held = make([]uint32, 1<<x.bits+1)
	return binary.Read(bufio.NewReaderSize(io.NewSectionReader(x.f, x.fanout, x.covered-x.fanout), 64<<10), binary.LittleEndian, x.held)
}

// bounds are the numbers of the first entry of the chunk's bucket and of the first
// behind it.
func (x *file) bounds(c id.Chunk, buf []byte) (from, to uint32, err error) {
	n := bucket(x.bits, c)
	if x.held != nil {
		return x.held[n], x.held[n+1], nil
	}
	if _, err = x.f.ReadAt(buf[:8], x.fanout+4*int64(n)); err != nil {
		return 0, 0, err
	}
	return binary.LittleEndian.Uint32(buf), binary.LittleEndian.Uint32(buf[4:]), nil
}

// names lists what the file was made from.
func (x *file) names() ([]id.Object, error) {
	out := make([]id.Object, 0, x.covers)
	r := bufio.NewReader(io.NewSectionReader(x.f, x.covered, x.packs-x.covered))
	for range x.covers {
		var o id.Object
		if _, err := io.ReadFull(r, o[:]); err != nil {
			return nil, fmt.Errorf("read chunk index: %w", err)
		}
		out = append(out, o)
	}
	return out, nil
}

func bucket(bits uint, c id.Chunk) uint32 {
	if bits == 0 {
		return 0
	}
	return binary.BigEndian.Uint32(c[:]) >> (32 - bits)
}

// find looks the chunk up; buf is scratch space that grows as needed. What cannot
// be read is unknown: stored again, nothing lost.
func (x *file) find(c id.Chunk, buf *[]byte) (Place, bool) {
	from, to, err := x.bounds(c, *buf)
	if err != nil {
		return Place{}, false
	}
	if from >= to || uint64(to) > x.count || to-from > maxBucket {
		return Place{}, false
	}
	size := int(to-from) * entryBytes
	if cap(*buf) < size {
		*buf = make([]byte, size)
	}
	b := (*buf)[:size]
	if _, err := x.f.ReadAt(b, headBytes+int64(from)*entryBytes); err != nil {
		return Place{}, false
	}
	at := sort.Search(int(to-from), func(i int) bool { return bytes.Compare(b[i*entryBytes:][:32], c[:]) >= 0 })
	if at == int(to-from) || !bytes.Equal(b[at*entryBytes:][:32], c[:]) {
		return Place{}, false
	}
	p, pack, ok := decode(b[at*entryBytes:][:entryBytes])
	return p, ok && x.pack(pack, &p, *buf)
}

// decode reads an entry but for its pack, of which it returns the number.
func decode(e []byte) (p Place, pack uint32, ok bool) {
	if castagnoli(e[:entryBytes-4]) != binary.LittleEndian.Uint32(e[entryBytes-4:]) {
		return p, 0, false
	}
	p = Place{Offset: binary.LittleEndian.Uint32(e[36:]), Stored: binary.LittleEndian.Uint32(e[40:]), Raw: binary.LittleEndian.Uint32(e[44:])}
	return p, binary.LittleEndian.Uint32(e[32:]), true
}

func (x *file) pack(n uint32, p *Place, buf []byte) bool {
	b := buf[:packBytes]
	if n >= x.npacks {
		return false
	}
	if _, err := x.f.ReadAt(b, x.packs+packBytes*int64(n)); err != nil || castagnoli(b[:48]) != binary.LittleEndian.Uint32(b[48:]) {
		return false
	}
	copy(p.Job[:], b)
	copy(p.Pack[:], b[16:])
	return true
}

// rows lists the file's entries in order; damaged ones are left out.
func (x *file) rows() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		packs := make([]byte, packBytes*int64(x.npacks))
		if _, err := x.f.ReadAt(packs, x.packs); err != nil && !errors.Is(err, io.EOF) {
			yield(Row{}, fmt.Errorf("read chunk index: %w", err))
			return
		}
		r := bufio.NewReaderSize(io.NewSectionReader(x.f, headBytes, int64(x.count)*entryBytes), 128<<10)
		var e [entryBytes]byte
		for range x.count {
			if _, err := io.ReadFull(r, e[:]); err != nil {
				yield(Row{}, fmt.Errorf("read chunk index: %w", err))
				return
			}
			p, pack, ok := decode(e[:])
			if !ok || pack >= x.npacks {
				continue
			}
			b := packs[packBytes*int(pack):][:packBytes]
			if castagnoli(b[:48]) != binary.LittleEndian.Uint32(b[48:]) {
				continue
			}
			copy(p.Job[:], b)
			copy(p.Pack[:], b[16:])
			if !yield(Row{Chunk: id.Chunk(e[:32]), Place: p}, nil) {
				return
			}
		}
	}
}
