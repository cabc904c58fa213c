// Package journal keeps the messages that a worker has acted on, in the order it
// did, so that a successor of its process comes to the same state. [Open] replays
// what is there; [Journal.Append] adds a message before it is acknowledged.
//
// It is not synced: it must outlive the process, not the machine (a power cut ends
// the job, and the vault has what counts). An entry that a kill left half-written
// was never acknowledged and is cut off; any other entry that cannot be read is
// [ErrDamaged], and nothing behind it is believed.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// Journal is an open journal. An entry is the message's length, its CRC-32C and
// the CRC-32C of these two (u32 each, little-endian), then the message.
type Journal struct {
	f   *os.File
	buf []byte
}

const (
	entryHead = 12
	maxEntry  = 64 << 20
)

// ErrDamaged: an entry is there whole and is not what was written. What it said
// was acknowledged, perhaps that a guest has failed, and is lost: the job ends.
var ErrDamaged = errors.New("damaged journal")

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Open opens the journal and replays what is in it. An entry that a kill
// left half-written ends the replay and is cut off: its message was not
// acknowledged. Any other entry that cannot be read is ErrDamaged.
func Open(path string, replay func(msg []byte) error) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	whole, err := replayAll(f, replay)
	if err == nil {
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("replay journal %s: %w", path, err)
	}
	return &Journal{f: f}, nil
}

func replayAll(r io.Reader, replay func([]byte) error) (whole int64, err error) {
	for {
		msg, err := readEntry(r)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return whole, nil
		case err == nil:
			err = replay(msg)
		}
		if err != nil {
			return whole, fmt.Errorf("entry at %d: %w", whole, err)
		}
		whole += entryHead + int64(len(msg))
	}
}

func readEntry(r io.Reader) ([]byte, error) {
	var head [entryHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if castagnoli(head[:8]) != binary.LittleEndian.Uint32(head[8:]) || n > maxEntry {
		return nil, ErrDamaged
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if castagnoli(b) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, ErrDamaged
	}
	return b, nil
}

// Append adds a message.
func (j *Journal) Append(msg []byte) error {
	j.frame(msg)
	if _, err := j.f.Write(j.buf); err != nil {
		return fmt.Errorf("write journal %s: %w", j.f.Name(), err)
	}
	return nil
}

// frame puts the entry of msg into buf.
func (j *Journal) frame(msg []byte) {
	j.buf = binary.LittleEndian.AppendUint32(j.buf[:0], uint32(len(msg)))
	j.buf = binary.LittleEndian.AppendUint32(j.buf, castagnoli(msg))
	j.buf = binary.LittleEndian.AppendUint32(j.buf, castagnoli(j.buf))
	j.buf = append(j.buf, msg...)
}

// Path is the name of the journal's file.
func (j *Journal) Path() string { return j.f.Name() }

// Close closes the file.
func (j *Journal) Close() error { return j.f.Close() }
