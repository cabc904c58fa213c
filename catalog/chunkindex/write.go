package chunkindex

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"math/bits"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/id"
)

// Write makes one file of rows, in any order, for an index that somebody follows
// (see [OpenFolders]). The file is at path whole or not at all.
func Write(path string, rows []Row) error {
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b Row) int { return a.Chunk.Compare(b.Chunk) })
	return write(path, nil, uint64(len(rows)), once(func(yield func(Row, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}))
}

// once leaves the first row of each chunk; rows are in order.
func once(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var last id.Chunk
		first := true
		for r, err := range rows {
			if err == nil && !first && r.Chunk == last {
				continue
			}
			if !yield(r, err) || err != nil {
				return
			}
			first, last = false, r.Chunk
		}
	}
}

// write makes a file of rows that ascend, at most about as many as expected,
// atomically. It is not synced: a file that a power cut leaves half-written fails
// its checks and is built again.
func write(path string, covered []id.Object, expected uint64, rows iter.Seq2[Row, error]) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), making+"*")
	if err != nil {
		return fmt.Errorf("write chunk index: %w", err)
	}
	defer os.Remove(tmp.Name()) // after the rename there is nothing of that name
	defer tmp.Close()
	if err := errors.Join(encode(tmp, covered, expected, rows), tmp.Close()); err != nil {
		return fmt.Errorf("write chunk index %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

// making begins the names of unfinished files.
const making = "making-"

// encoder writes the entries and remembers what comes behind them.
type encoder struct {
	w      *bufio.Writer
	bits   uint
	count  uint64
	fanout []uint32
	packs  []byte
	number map[packKey]uint32
}

type packKey struct {
	Job  id.Job
	Pack id.Object
}

func encode(f *os.File, covered []id.Object, expected uint64, rows iter.Seq2[Row, error]) error {
	e := encoder{w: bufio.NewWriterSize(f, 128<<10), bits: uint(min(maxBits, bits.Len64(expected/perBucket))), number: map[packKey]uint32{}}
	e.fanout = make([]uint32, 1<<e.bits+1)
	head := append([]byte(magic), make([]byte, headBytes-8)...)
	if _, err := e.w.Write(head); err != nil { // its place
		return err
	}
	for r, err := range rows {
		if err == nil {
			err = e.entry(&r)
		}
		if err != nil {
			return err
		}
	}
	binary.LittleEndian.PutUint32(head[8:], uint32(e.bits))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(e.number)))
	binary.LittleEndian.PutUint32(head[16:], uint32(len(covered)))
	binary.LittleEndian.PutUint64(head[24:], e.count)
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	sum.Write(head)
	if err := e.tail(io.MultiWriter(e.w, sum), covered); err != nil {
		return err
	}
	if _, err := e.w.Write(e.packs); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(head[20:], sum.Sum32())
	if err := e.w.Flush(); err != nil {
		return err
	}
	_, err := f.WriteAt(head, 0)
	return err
}

func (e *encoder) entry(r *Row) error {
	if e.count == 1<<32-1 {
		return fmt.Errorf("more than %d chunks", e.count)
	}
	k := packKey{r.Job, r.Pack}
	n, ok := e.number[k]
	if !ok {
		n = uint32(len(e.number))
		e.number[k] = n
		from := len(e.packs)
		e.packs = append(append(e.packs, k.Job[:]...), k.Pack[:]...)
		e.packs = binary.LittleEndian.AppendUint32(e.packs, castagnoli(e.packs[from:]))
	}
	e.count++
	e.fanout[bucket(e.bits, r.Chunk)+1]++
	var b [entryBytes]byte
	copy(b[:], r.Chunk[:])
	for i, v := range [...]uint32{n, r.Offset, r.Stored, r.Raw} {
		binary.LittleEndian.PutUint32(b[32+4*i:], v)
	}
	binary.LittleEndian.PutUint32(b[48:], castagnoli(b[:48]))
	_, err := e.w.Write(b[:])
	return err
}

// tail writes fanout and covered names.
func (e *encoder) tail(w io.Writer, covered []id.Object) error {
	var b []byte
	total := uint32(0)
	for i, n := range e.fanout {
		total += n
		b = binary.LittleEndian.AppendUint32(b, total)
		if len(b) >= 64<<10 || i == len(e.fanout)-1 {
			if _, err := w.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	for _, c := range covered {
		if _, err := w.Write(c[:]); err != nil {
			return err
		}
	}
	return nil
}
