package rundirect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
)

// A note says what of a disk is at home, so that who comes after a crash goes on there. It is
// written after the file was synced, and believed only as far as the file still has what it
// says, which is read back in any case before the file counts. Numbers are little end first:
//
//	"MRHM" 1  length of path (4)  path  size (8)  { unit (8)  put (8)  64 sums (4 each) }...  CRC-32C (4)
const noteMagic = "MRHM\x01"

const noteUnit = 8 + 8 + 64*4

// maxNote bounds what is read: a disk of 64 TiB that is full has no more.
const maxNote = 5 << 30

// note makes durable what was copied, and notes it.
func (m *mover) note(path string) error {
	m.mu.Lock()
	b := append([]byte(noteMagic), binary.LittleEndian.AppendUint32(nil, uint32(len(m.f.Name())))...)
	b = binary.LittleEndian.AppendUint64(append(b, m.f.Name()...), uint64(m.size))
	for n, u := range m.units {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
		b = binary.LittleEndian.AppendUint64(b, u.put)
		for _, s := range u.sums {
			b = binary.LittleEndian.AppendUint32(b, s)
		}
	}
	m.mu.Unlock()
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	// What is noted was written before it was in units, and now it is durable.
	if err := m.f.Sync(); err != nil {
		return err
	}
	// Not durable itself: a note that a crash has eaten costs time, no more.
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// noted reads the note of a file; none, or one of another file or that is damaged, is an empty
// one.
func noted(path, file string, size int64) (map[int64]*unit, error) {
	units := map[int64]*unit{}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() > maxNote {
		return units, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	head := append([]byte(noteMagic), binary.LittleEndian.AppendUint32(nil, uint32(len(file)))...)
	head = binary.LittleEndian.AppendUint64(append(head, file...), uint64(size))
	rest, ok := bytes.CutPrefix(b, head)
	if !ok || len(rest)%noteUnit != 4 || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return units, nil
	}
	for ; len(rest) > 4; rest = rest[noteUnit:] {
		n := int64(binary.LittleEndian.Uint64(rest))
		if n < 0 || n > (size-1)/unitSize {
			return map[int64]*unit{}, nil
		}
		u := &unit{put: binary.LittleEndian.Uint64(rest[8:])}
		for i := range u.sums {
			u.sums[i] = binary.LittleEndian.Uint32(rest[16+4*i:])
		}
		units[n] = u
	}
	return units, nil
}

// openHome opens the file that a disk goes to, of the disk's size. What is noted of it counts
// only if the file was there.
func openHome(path, note string, size int64) (f *os.File, units map[int64]*unit, used bool, err error) {
	fail := func(err error) (*os.File, map[int64]*unit, bool, error) {
		return nil, nil, false, fmt.Errorf("disk file %s: %w", filepath.Base(path), errors.Join(err, f.Close()))
	}
	f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, false, err
	}
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if !info.Mode().IsRegular() {
		return fail(errors.New("it is no regular file"))
	}
	if info.Size() != size {
		if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
			return fail(err)
		}
		return f, map[int64]*unit{}, false, nil
	}
	if units, err = noted(note, path, size); err != nil {
		return fail(err)
	}
	return f, units, true, nil
}
