package spill

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// ErrDamaged: a block is not what was written. Its owner begins again.
var ErrDamaged = errors.New("damaged scratch file")

const (
	// WriteBuffer is how many bytes of a Log wait in memory before they are written.
	WriteBuffer = 128 << 10
	// MaxBlock is the largest block, in bytes.
	MaxBlock = 1 << 28

	blockHead = 8 // length u32, CRC-32C of length and block u32, little-endian
)

// Log is a file of blocks. The file goes with Close.
type Log struct {
	f       *os.File
	buf     []byte
	written int64 // bytes of the file; buf lies behind them
}

// Create makes an empty log at path, over whatever a predecessor left there.
func Create(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	return &Log{f: f}, nil
}

// Append adds a block and returns its place.
func (l *Log) Append(block []byte) (at int64, err error) {
	if len(block) > MaxBlock {
		return 0, fmt.Errorf("write scratch file %s: a block of %d bytes, at most %d", l.f.Name(), len(block), MaxBlock)
	}
	at = l.written + int64(len(l.buf))
	l.buf = binary.LittleEndian.AppendUint32(l.buf, uint32(len(block)))
	l.buf = binary.LittleEndian.AppendUint32(l.buf, sumOf(block))
	l.buf = append(l.buf, block...)
	if len(l.buf) < WriteBuffer {
		return at, nil
	}
	return at, l.flush()
}

// flush writes what waits. After an error the log is as before: a later call
// writes the same bytes to the same place.
func (l *Log) flush() error {
	if _, err := l.f.WriteAt(l.buf, l.written); err != nil {
		return fmt.Errorf("write scratch file %s: %w", l.f.Name(), err)
	}
	l.written += int64(len(l.buf))
	if l.buf = l.buf[:0]; cap(l.buf) > 4*WriteBuffer {
		l.buf = nil
	}
	return nil
}

// Read returns the block at a place that Append gave. room is used for it if it
// is large enough.
func (l *Log) Read(at int64, room []byte) ([]byte, error) {
	if at >= l.written && len(l.buf) > 0 {
		if err := l.flush(); err != nil {
			return nil, err
		}
	}
	var head [blockHead]byte
	if _, err := l.f.ReadAt(head[:], at); err != nil {
		return nil, fmt.Errorf("read scratch file %s at %d: %w", l.f.Name(), at, err)
	}
	n := int64(binary.LittleEndian.Uint32(head[:]))
	if n > l.written-at-blockHead {
		return nil, l.damaged(at)
	}
	if int64(cap(room)) < n {
		room = make([]byte, n)
	}
	room = room[:n]
	if _, err := l.f.ReadAt(room, at+blockHead); err != nil {
		return nil, fmt.Errorf("read scratch file %s at %d: %w", l.f.Name(), at, err)
	}
	if sumOf(room) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, l.damaged(at)
	}
	return room, nil
}

func (l *Log) damaged(at int64) error {
	return fmt.Errorf("read scratch file %s at %d: %w", l.f.Name(), at, ErrDamaged)
}

// sumOf covers the length too: a run of zeros is no block.
func sumOf(block []byte) uint32 {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(block))+1)
	// MakeTable returns the one table the standard library keeps for this polynomial.
	t := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(n[:], t), t, block)
}

// Size is the length of the log in bytes.
func (l *Log) Size() int64 { return l.written + int64(len(l.buf)) }

// Close closes and removes the file.
func (l *Log) Close() error {
	return errors.Join(l.f.Close(), os.Remove(l.f.Name()))
}
