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
	"math/bits"
	"os"
	"path/filepath"
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
	magic      = "MRCHIX01"
	headBytes  = 8 + 4*4 + 8
	entryBytes = 32 + 4*4 + 4
	packBytes  = 16 + 32 + 4
	perBucket  = 64
	maxBits    = 26
	maxPacks   = 1 << 24
	maxCovered = 1 << 20
)

// MakeTable returns the one table the standard library keeps for this polynomial.
func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

type file struct {
	f       *os.File
	bits    uint
	fanout  []uint32
	covered []id.Object
	packs   []byte
	count   uint64
	entries int64 // offset of the first entry
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
	nbits, packs, covered := binary.LittleEndian.Uint32(head[8:]), binary.LittleEndian.Uint32(head[12:]), binary.LittleEndian.Uint32(head[16:])
	x.count = binary.LittleEndian.Uint64(head[24:])
	if nbits > maxBits || packs > maxPacks || covered > maxCovered || x.count > 1<<32-1 {
		return ErrDamaged
	}
	fan := (4 << nbits) + 4
	x.entries = headBytes + int64(fan) + 32*int64(covered) + packBytes*int64(packs)
	if st.Size() != x.entries+int64(x.count)*entryBytes {
		return fmt.Errorf("%w: %d bytes", ErrDamaged, st.Size())
	}
	body := make([]byte, x.entries-headBytes)
	if _, err := x.f.ReadAt(body, headBytes); err != nil {
		return err
	}
	sum := binary.LittleEndian.Uint32(head[20:])
	binary.LittleEndian.PutUint32(head[20:], 0)
	if castagnoli(append(head, body[:fan+32*int(covered)]...)) != sum {
		return fmt.Errorf("%w: checksum", ErrDamaged)
	}
	x.bits = uint(nbits)
	x.fanout = make([]uint32, 1<<nbits+1)
	for i := range x.fanout {
		x.fanout[i] = binary.LittleEndian.Uint32(body[4*i:])
	}
	for i := range int(covered) {
		x.covered = append(x.covered, id.Object(body[fan+32*i:][:32]))
	}
	x.packs = body[fan+32*int(covered):]
	return nil
}

func (x *file) bucket(c id.Chunk) uint32 {
	if x.bits == 0 {
		return 0
	}
	return binary.BigEndian.Uint32(c[:]) >> (32 - x.bits)
}

// find looks the chunk up; buf is scratch space that grows as needed.
func (x *file) find(c id.Chunk, buf *[]byte) (Place, bool) {
	n := x.bucket(c)
	from, to := x.fanout[n], x.fanout[n+1]
	if from >= to || uint64(to) > x.count {
		return Place{}, false
	}
	size := int(to-from) * entryBytes
	if cap(*buf) < size {
		*buf = make([]byte, size)
	}
	b := (*buf)[:size]
	if _, err := x.f.ReadAt(b, x.entries+int64(from)*entryBytes); err != nil {
		return Place{}, false // unknown: stored again, nothing lost
	}
	at := sort.Search(int(to-from), func(i int) bool { return bytes.Compare(b[i*entryBytes:][:32], c[:]) >= 0 })
	if at == int(to-from) || !bytes.Equal(b[at*entryBytes:][:32], c[:]) {
		return Place{}, false
	}
	return x.decode(b[at*entryBytes:][:entryBytes])
}

func (x *file) decode(e []byte) (Place, bool) {
	if castagnoli(e[:entryBytes-4]) != binary.LittleEndian.Uint32(e[entryBytes-4:]) {
		return Place{}, false
	}
	p := Place{Offset: binary.LittleEndian.Uint32(e[36:]), Stored: binary.LittleEndian.Uint32(e[40:]), Raw: binary.LittleEndian.Uint32(e[44:])}
	n := int(binary.LittleEndian.Uint32(e[32:])) * packBytes
	if n+packBytes > len(x.packs) {
		return Place{}, false
	}
	pack := x.packs[n : n+packBytes]
	if castagnoli(pack[:48]) != binary.LittleEndian.Uint32(pack[48:]) {
		return Place{}, false
	}
	copy(p.Job[:], pack)
	copy(p.Pack[:], pack[16:])
	return p, true
}

// rows lists the file's entries in order; damaged ones are left out.
func (x *file) rows() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		r := bufio.NewReaderSize(io.NewSectionReader(x.f, x.entries, int64(x.count)*entryBytes), 1<<20)
		var e [entryBytes]byte
		for range x.count {
			if _, err := io.ReadFull(r, e[:]); err != nil {
				yield(Row{}, fmt.Errorf("read chunk index: %w", err))
				return
			}
			if p, ok := x.decode(e[:]); ok && !yield(Row{Chunk: id.Chunk(e[:32]), Place: p}, nil) {
				return
			}
		}
	}
}

// write makes a file of sorted rows, atomically. It is not synced: a file that a
// power cut leaves half-written fails its checks and is built again.
func write(path string, covered []id.Object, rows []Row) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "making-*")
	if err != nil {
		return fmt.Errorf("write chunk index: %w", err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	w := bufio.NewWriterSize(tmp, 1<<20)
	if err := encode(w, covered, rows); err != nil {
		return fmt.Errorf("write chunk index %s: %w", path, err)
	}
	if err := errors.Join(w.Flush(), tmp.Close()); err != nil {
		return fmt.Errorf("write chunk index %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

func encode(w io.Writer, covered []id.Object, rows []Row) error {
	x := file{bits: uint(min(maxBits, bits.Len(uint(len(rows)/perBucket))))}
	x.fanout = make([]uint32, 1<<x.bits+1)
	type folder struct {
		Job  id.Job
		Pack id.Object
	}
	numbers := map[folder]uint32{}
	var packs []byte
	for i := range rows {
		x.fanout[x.bucket(rows[i].Chunk)+1]++
		k := folder{rows[i].Job, rows[i].Pack}
		if _, ok := numbers[k]; !ok {
			numbers[k] = uint32(len(numbers))
			e := append(append([]byte{}, k.Job[:]...), k.Pack[:]...)
			packs = append(packs, binary.LittleEndian.AppendUint32(e, castagnoli(e))...)
		}
	}
	head := append([]byte(magic), make([]byte, headBytes-8)...)
	binary.LittleEndian.PutUint32(head[8:], uint32(x.bits))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(numbers)))
	binary.LittleEndian.PutUint32(head[16:], uint32(len(covered)))
	binary.LittleEndian.PutUint64(head[24:], uint64(len(rows)))
	for i := range x.fanout {
		if i > 0 {
			x.fanout[i] += x.fanout[i-1]
		}
		head = binary.LittleEndian.AppendUint32(head, x.fanout[i])
	}
	for _, c := range covered {
		head = append(head, c[:]...)
	}
	binary.LittleEndian.PutUint32(head[20:], castagnoli(head))
	if _, err := w.Write(append(head, packs...)); err != nil {
		return err
	}
	var e [entryBytes]byte
	for i := range rows {
		r := &rows[i]
		copy(e[:], r.Chunk[:])
		for n, v := range []uint32{numbers[folder{r.Job, r.Pack}], r.Offset, r.Stored, r.Raw} {
			binary.LittleEndian.PutUint32(e[32+4*n:], v)
		}
		binary.LittleEndian.PutUint32(e[48:], castagnoli(e[:48]))
		if _, err := w.Write(e[:]); err != nil {
			return err
		}
	}
	return nil
}
