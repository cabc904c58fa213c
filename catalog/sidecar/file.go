package sidecar

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// Key is whose blocks a sidecar describes.
type Key struct {
	Vault  id.Vault
	Domain id.Domain
	Guest  id.Guest
	Disk   id.Disk
	Shape
}

// At is the point that a sidecar describes, and the root of the disk in it.
type At struct {
	Point id.Point
	Root  events.Hash
}

// Path is where the sidecar of a disk lies in its vault's folder. It does not tell
// sizes apart: a disk that has grown replaces its sidecar.
func Path(folder string, k Key) string {
	return filepath.Join(folder, k.Guest.String()+"-"+k.Disk.String()+".blocks")
}

// ErrUnusable: there is no sidecar, or none of this disk at this point, or it was
// left half-written. Nothing is lost but time.
var ErrUnusable = errors.New("no usable sidecar")

// File is an open sidecar, or one that is being gathered. It is for one goroutine.
type File struct {
	f   *os.File
	key Key
	head
	room []byte
	now  []byte
}

// head is what the header says besides the key.
type head struct {
	uid   [16]byte // random: no record is taken for one of another file
	at    At
	next  id.Point // what the file is on its way to, while dirty
	dirty bool
}

const (
	magic     = "MRBLOCKS"
	headSize  = 512
	statesAt  = 4096
	alignment = 4096
)

func castagnoli(parts ...[]byte) (sum uint32) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, p := range parts {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

// header encodes: magic 8 ‖ format u16 ‖ dirty u8 ‖ zero u8 ‖ uid 16 ‖ vault 32 ‖ domain 16 ‖
// guest 16 ‖ disk 16 ‖ size u64 ‖ cell u32 ‖ block u32 ‖ point 16 ‖ root 32 ‖ next point
// 16 ‖ zeros up to 508 ‖ CRC-32C u32. Integers are little-endian.
func (f *File) header() []byte {
	b := make([]byte, 0, headSize)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint16(b, 1)
	var dirty byte
	if f.dirty {
		dirty = 1
	}
	b = append(b, dirty, 0)
	b = append(b, f.uid[:]...)
	b = append(b, f.key.Vault[:]...)
	b = append(b, f.key.Domain[:]...)
	b = append(b, f.key.Guest[:]...)
	b = append(b, f.key.Disk[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.key.Size))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.key.Cell))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.key.Block))
	b = append(b, f.at.Point[:]...)
	b = append(b, f.at.Root[:]...)
	b = append(b, f.next[:]...)
	b = append(b, make([]byte, headSize-4-len(b))...)
	return binary.LittleEndian.AppendUint32(b, castagnoli(b))
}

// readHeader takes over what the file's header says, if it is one of the key's. All
// that a header can say is in header: one that encodes otherwise is damaged.
func (f *File) readHeader() error {
	b := make([]byte, headSize)
	if _, err := f.f.ReadAt(b, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	const uidAt, atAt = 12, 12 + 16 + 32 + 16 + 16 + 16 + 8 + 4 + 4
	f.dirty = b[10] == 1
	copy(f.uid[:], b[uidAt:])
	rest := b[atAt:]
	rest = rest[copy(f.at.Point[:], rest):]
	rest = rest[copy(f.at.Root[:], rest):]
	copy(f.next[:], rest)
	if !bytes.Equal(b, f.header()) {
		return fmt.Errorf("%w: %s is of another disk, or damaged", ErrUnusable, f.f.Name())
	}
	return nil
}

// Open opens the sidecar of a disk for reading. Any error means that there is none
// to be used.
func Open(folder string, k Key, at At) (*File, error) {
	f, err := open(Path(folder, k), k, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if f.dirty || f.at != at {
		f.Close()
		return nil, fmt.Errorf("%w: %s is of point %s", ErrUnusable, f.f.Name(), f.at.Point)
	}
	return f, nil
}

func open(path string, k Key, mode int) (*File, error) {
	if !k.sane() {
		return nil, fmt.Errorf("%w: a disk of %d bytes, cells of %d, blocks of %d", ErrUnusable, k.Size, k.Cell, k.Block)
	}
	o, err := os.OpenFile(path, mode, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	f := &File{f: o, key: k}
	if err := f.readHeader(); err != nil {
		o.Close()
		return nil, err
	}
	return f, nil
}

// create makes a file that is of no point yet. One that is there is replaced.
func create(path string, k Key) (*File, error) {
	if !k.sane() {
		return nil, fmt.Errorf("%w: a disk of %d bytes, cells of %d, blocks of %d", ErrUnusable, k.Size, k.Cell, k.Block)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make a sidecar: %w", err)
	}
	o, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a sidecar: %w", err)
	}
	f := &File{f: o, key: k, head: head{dirty: true}}
	_, _ = rand.Read(f.uid[:]) // never fails
	if err := o.Truncate(f.recordAt(k.Cells())); err == nil {
		err = f.writeHeader()
	}
	if err != nil {
		o.Close()
		return nil, fmt.Errorf("make a sidecar: %w", err)
	}
	return f, nil
}

func (f *File) writeHeader() error {
	_, err := f.f.WriteAt(f.header(), 0)
	return err
}

// Close lets go of the file.
func (f *File) Close() error { return f.f.Close() }

func (f *File) recordSize() int64 { return int64(f.key.body()) + 4 }

// recordAt is where the record of a cell lies: behind the header and a byte per cell.
func (f *File) recordAt(cell int64) int64 {
	states := (f.key.Cells() + alignment - 1) / alignment * alignment
	return statesAt + states + cell*f.recordSize()
}

// Cell reads the record of a cell into r. False: nothing is known of it. The record of a
// cell that is zero has no hash, no change and no start.
func (f *File) Cell(cell int64, r *Record) bool {
	if cell < 0 || cell >= f.key.Cells() {
		return false
	}
	var body []byte
	switch f.state(cell) {
	case known:
		var ok bool
		if body, ok = f.record(cell); !ok {
			return false
		}
	case blank:
	default:
		return false
	}
	// Whoever changes records says so first: if the header is as it was, the
	// record is of its time.
	if f.now == nil {
		f.now = make([]byte, headSize)
	}
	if _, err := f.f.ReadAt(f.now, 0); err != nil || !bytes.Equal(f.now, f.header()) {
		return false
	}
	if r.Clear(); body != nil {
		r.parse(body)
	}
	return true
}

// Sets reads of the record of a cell which blocks have changed and where pieces begin,
// and not the hashes; so nothing says that it is whole: good for a guess. False: there is
// no record.
func (f *File) Sets(cell int64, r *Record) bool {
	if cell < 0 || cell >= f.key.Cells() {
		return false
	}
	switch f.state(cell) {
	case known:
	case blank:
		clear(r.Changed)
		clear(r.Starts)
		return true
	default:
		return false
	}
	b := make([]byte, 2*f.key.set())
	if _, err := f.f.ReadAt(b, f.recordAt(cell)+int64(f.key.body()-len(b))); err != nil {
		return false
	}
	copy(r.Starts, b[copy(r.Changed, b):])
	return true
}

// Known lists the cells of which there is a record.
func (f *File) Known() (cells []int64, err error) {
	err = eachState(func(cell int64, what []byte) error {
		if what[0] == known {
			cells = append(cells, cell)
		}
		return nil
	}, f)
	return cells, err
}

func (f *File) state(cell int64) byte {
	var b [1]byte
	if _, err := f.f.ReadAt(b[:], statesAt+cell); err != nil {
		return none
	}
	return b[0]
}

// record returns the body of a cell's record if its checksum is right. It is good
// until the next call.
func (f *File) record(cell int64) ([]byte, bool) {
	if f.room == nil {
		f.room = make([]byte, f.recordSize())
	}
	if _, err := f.f.ReadAt(f.room, f.recordAt(cell)); err != nil {
		return nil, false
	}
	body, sum := f.room[:f.key.body()], f.room[f.key.body():]
	return body, binary.LittleEndian.Uint32(sum) == f.checksum(cell, body)
}

func (f *File) checksum(cell int64, body []byte) uint32 {
	return castagnoli(f.uid[:], number(cell), body)
}

// put writes a record; that it is there is not said yet.
func (f *File) put(cell int64, body []byte) error {
	b := append(append(f.room[:0], body...), 0, 0, 0, 0)
	f.room = b
	binary.LittleEndian.PutUint32(b[len(body):], f.checksum(cell, body))
	_, err := f.f.WriteAt(b, f.recordAt(cell))
	return err
}

// drop makes a record unreadable; that it is not there is not said yet.
func (f *File) drop(cell int64) error {
	_, err := f.f.WriteAt(make([]byte, f.recordSize()), f.recordAt(cell))
	return err
}

func (f *File) mark(cell int64, what byte) error {
	_, err := f.f.WriteAt([]byte{what}, statesAt+cell)
	return err
}
