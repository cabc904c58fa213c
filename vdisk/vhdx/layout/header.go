package layout

import (
	"bytes"
	"fmt"
	"io"

	"github.com/millrace-backup/millrace/vdisk"
)

// Header is what the current of the two headers says. Section 2.2.2.
type Header struct {
	At         int64 // where it was read from: HeaderAt1 or HeaderAt2
	Sequence   uint64
	FileWrite  GUID // new whenever the file was opened for writing
	DataWrite  GUID // new whenever the disk's bytes changed; children name their parent by it
	LogGUID    GUID // zero when there is nothing to replay
	LogVersion uint16
	Version    uint16
	LogOffset  int64
	LogLength  int64
}

// ReadHeader checks the file identifier and returns the current header: the
// valid one, or of two valid ones that with the higher sequence number.
func ReadHeader(file io.ReaderAt) (Header, error) {
	var id [8]byte
	if err := vdisk.ReadFull(file, id[:], 0); err != nil {
		return Header{}, fmt.Errorf("read file identifier: %w", err)
	}
	if string(id[:]) != magic {
		return Header{}, vdisk.BadFormat("no VHDX file identifier")
	}
	raw1, ok1, err := readSlot(file, HeaderAt1)
	if err != nil {
		return Header{}, fmt.Errorf("read header 1: %w", err)
	}
	raw2, ok2, err := readSlot(file, HeaderAt2)
	if err != nil {
		return Header{}, fmt.Errorf("read header 2: %w", err)
	}
	var h Header
	switch h1, h2 := parseHeader(raw1, HeaderAt1), parseHeader(raw2, HeaderAt2); {
	case !ok1 && !ok2:
		return Header{}, vdisk.BadFormat("neither header is valid")
	case ok1 && ok2 && h1.Sequence == h2.Sequence && !bytes.Equal(raw1, raw2):
		// Tools that write both alike exist (disk2vhd) and do no harm.
		return Header{}, vdisk.BadFormat("two different headers with sequence number %d", h1.Sequence)
	case ok1 && (!ok2 || h1.Sequence >= h2.Sequence):
		h = h1
	default:
		h = h2
	}
	return h, h.check()
}

// readSlot returns the header's bytes and whether its signature and checksum
// hold.
func readSlot(file io.ReaderAt, at int64) ([]byte, bool, error) {
	b := make([]byte, HeaderSize)
	if err := vdisk.ReadFull(file, b, at); err != nil {
		return nil, false, err
	}
	return b, string(b[:4]) == "head" && Checksum(b) == le32(b[4:]), nil
}

func parseHeader(b []byte, at int64) Header {
	return Header{
		At:         at,
		Sequence:   le64(b[8:]),
		FileWrite:  GUID(b[16:32]),
		DataWrite:  GUID(b[32:48]),
		LogGUID:    GUID(b[48:64]),
		LogVersion: le16(b[64:]),
		Version:    le16(b[66:]),
		LogLength:  int64(le32(b[68:])),
		LogOffset:  int64(le64(b[72:])),
	}
}

// Bytes is the header as it is stored, 4 KiB.
func (h Header) Bytes() []byte {
	b := make([]byte, HeaderSize)
	copy(b, "head")
	put64(b[8:], h.Sequence)
	copy(b[16:], h.FileWrite[:])
	copy(b[32:], h.DataWrite[:])
	copy(b[48:], h.LogGUID[:])
	put16(b[64:], h.LogVersion)
	put16(b[66:], h.Version)
	put32(b[68:], uint32(h.LogLength))
	put64(b[72:], uint64(h.LogOffset))
	put32(b[4:], Checksum(b))
	return b
}

func (h Header) check() error {
	if h.Version != 1 {
		return vdisk.Unsupported("format version %d, only 1 is known", h.Version)
	}
	if h.LogLength == 0 && h.LogGUID.IsZero() {
		return nil // no log at all, and none needed
	}
	switch {
	case h.LogOffset < MiB || h.LogOffset%MiB != 0 || h.LogLength%MiB != 0 || h.LogOffset > MaxFileSize:
		return vdisk.BadFormat("log of %d bytes at %d", h.LogLength, h.LogOffset)
	case h.LogGUID.IsZero():
		return nil
	}
	return h.CheckLog()
}

// CheckLog returns an error unless the log can be read, or, where it is empty,
// written.
func (h Header) CheckLog() error {
	switch {
	case h.LogLength == 0:
		return vdisk.BadFormat("the log has no length, and there is one to replay or to write")
	case h.LogVersion != 0:
		return vdisk.Unsupported("log version %d, only 0 is known", h.LogVersion)
	case h.LogLength > MaxLogSize:
		return vdisk.Unsupported("log of %d bytes, at most %d are read and written; converting the disk gives it one of 1 MiB", h.LogLength, MaxLogSize)
	}
	return nil
}
