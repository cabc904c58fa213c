package vhdx

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/millrace-backup/millrace/vdisk"
)

// header is what the current of the two headers says. Section 2.2.2.
type header struct {
	sequence   uint64
	fileWrite  guid // new whenever the file was opened for writing
	dataWrite  guid // new whenever the disk's bytes changed; children name their parent by it
	logGUID    guid // zero when there is nothing to replay
	logVersion uint16
	version    uint16
	logOffset  int64
	logLength  int64
}

// readHeader checks the file identifier and returns the current header: the
// valid one, or of two valid ones that with the higher sequence number.
func readHeader(file vdisk.Image) (header, error) {
	var id [8]byte
	if err := readFull(file, id[:], 0); err != nil {
		return header{}, fmt.Errorf("read file identifier: %w", err)
	}
	if string(id[:]) != "vhdxfile" {
		return header{}, badFormat("no VHDX file identifier")
	}
	raw1, ok1, err := readHeaderSlot(file, headerAt1)
	if err != nil {
		return header{}, fmt.Errorf("read header 1: %w", err)
	}
	raw2, ok2, err := readHeaderSlot(file, headerAt2)
	if err != nil {
		return header{}, fmt.Errorf("read header 2: %w", err)
	}
	var h header
	switch h1, h2 := parseHeader(raw1), parseHeader(raw2); {
	case !ok1 && !ok2:
		return header{}, badFormat("neither header is valid")
	case ok1 && ok2 && h1.sequence == h2.sequence && !bytes.Equal(raw1, raw2):
		// Tools that write both alike exist (disk2vhd) and do no harm.
		return header{}, badFormat("two different headers with sequence number %d", h1.sequence)
	case ok1 && (!ok2 || h1.sequence >= h2.sequence):
		h = h1
	default:
		h = h2
	}
	return h, h.check()
}

// readHeaderSlot returns the header's bytes and whether its signature and
// checksum hold.
func readHeaderSlot(file vdisk.Image, at int64) ([]byte, bool, error) {
	b := make([]byte, headerSize)
	if err := readFull(file, b, at); err != nil {
		return nil, false, err
	}
	return b, string(b[:4]) == "head" && checksum(b) == le32(b[4:]), nil
}

func parseHeader(b []byte) header {
	return header{
		sequence:   le64(b[8:]),
		fileWrite:  guid(b[16:32]),
		dataWrite:  guid(b[32:48]),
		logGUID:    guid(b[48:64]),
		logVersion: le16(b[64:]),
		version:    le16(b[66:]),
		logLength:  int64(le32(b[68:])),
		logOffset:  int64(le64(b[72:])),
	}
}

// bytes is the header as it is stored.
func (h header) bytes() []byte {
	b := make([]byte, headerSize)
	copy(b, "head")
	put64(b[8:], h.sequence)
	copy(b[16:], h.fileWrite[:])
	copy(b[32:], h.dataWrite[:])
	copy(b[48:], h.logGUID[:])
	put16(b[64:], h.logVersion)
	put16(b[66:], h.version)
	put32(b[68:], uint32(h.logLength))
	put64(b[72:], uint64(h.logOffset))
	put32(b[4:], checksum(b))
	return b
}

func (h header) check() error {
	if h.version != 1 {
		return unsupported("format version %d", h.version)
	}
	if h.logLength == 0 && h.logGUID == (guid{}) {
		return nil // no log at all, and none needed
	}
	switch {
	case h.logOffset < mib || h.logOffset%mib != 0 || h.logLength%mib != 0 || h.logOffset > maxFileSize:
		return badFormat("log of %d bytes at %d", h.logLength, h.logOffset)
	case h.logGUID == guid{}:
		return nil
	case h.logLength == 0:
		return badFormat("log to replay has no length")
	case h.logVersion != 0:
		return unsupported("log version %d", h.logVersion)
	case h.logLength > maxLogSize:
		return unsupported("log of %d bytes, at most %d are replayed", h.logLength, maxLogSize)
	}
	return nil
}

// readFull fills b from off; a file that ends before is truncated.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return truncated("%d bytes at %d, file ends after %d of them", len(b), off, n)
	}
	return err
}
