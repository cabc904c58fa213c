package layout

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// Sizes in bytes.
const (
	KiB = int64(1) << 10
	MiB = int64(1) << 20
	TiB = int64(1) << 40
)

// Places and limits of the format.
const (
	SectorSize = 4 * KiB // unit of the log and of what it patches, section 2.3

	HeaderAt1, HeaderAt2 = 64 * KiB, 128 * KiB  // section 2.2
	RegionAt1, RegionAt2 = 192 * KiB, 256 * KiB // section 2.2
	HeaderSize           = 4 * KiB              // of the 64 KiB slot, section 2.2.2
	TableSize            = 64 * KiB             // region table and metadata table

	MaxDiskSize  = 64 * TiB // section 2.6.2.2
	MinBlockSize = MiB      // section 2.6.2.1
	MaxBlockSize = 256 * MiB

	maxTableEntries = 2047 // sections 2.2.3.1 and 2.6.1.1
	maxItemSize     = MiB  // of a metadata item, section 2.6.1.2
)

// Limits of this package, where the format names none.
const (
	MaxFileSize = 128 * TiB // twice the largest disk, for structures and slack
	MaxLogSize  = 64 * MiB  // Hyper-V and QEMU make 1 MiB
)

// GUID is a GUID as it is stored: the first three fields little-endian, the
// rest byte by byte.
type GUID [16]byte

// String returns the usual form, in lower case and without braces.
func (g GUID) String() string {
	var b [16]byte
	binary.BigEndian.PutUint32(b[0:], binary.LittleEndian.Uint32(g[0:]))
	binary.BigEndian.PutUint16(b[4:], binary.LittleEndian.Uint16(g[4:]))
	binary.BigEndian.PutUint16(b[6:], binary.LittleEndian.Uint16(g[6:]))
	copy(b[8:], g[8:])
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// IsZero reports whether all bits are zero.
func (g GUID) IsZero() bool { return g == GUID{} }

// ReadGUID is the reverse of String, of either case and with or without braces.
func ReadGUID(s string) (g GUID, ok bool) {
	if len(s) == 38 && s[0] == '{' && s[37] == '}' {
		s = s[1:37]
	}
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, false
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(g) {
		return g, false
	}
	binary.LittleEndian.PutUint32(g[0:], binary.BigEndian.Uint32(b[0:]))
	binary.LittleEndian.PutUint16(g[4:], binary.BigEndian.Uint16(b[4:]))
	binary.LittleEndian.PutUint16(g[6:], binary.BigEndian.Uint16(b[6:]))
	copy(g[8:], b[8:])
	return g, true
}

// ParseGUID is ReadGUID for the constants of the format.
func ParseGUID(s string) GUID {
	g, ok := ReadGUID(s)
	if !ok {
		panic("layout: internal error: " + s + " is not a GUID")
	}
	return g
}

// NewGUID draws a random GUID, version 4 of RFC 9562.
func NewGUID(r io.Reader) (g GUID, err error) {
	if _, err := io.ReadFull(r, g[:]); err != nil {
		return g, fmt.Errorf("draw an id: %w", err)
	}
	g[7] = g[7]&0x0F | 0x40 // the third field is little-endian
	g[8] = g[8]&0x3F | 0x80
	return g, nil
}

// Identifier is what a file begins with, 64 KiB. Section 2.2.1.
func Identifier() []byte {
	b := make([]byte, HeaderAt1)
	copy(b, magic)
	for i, u := range utf16.Encode([]rune("Millrace")) {
		binary.LittleEndian.PutUint16(b[8+2*i:], u)
	}
	return b
}

const magic = "vhdxfile"

// Checksum is the CRC-32C of b and what follows it, computed as if the four bytes at
// offset 4 were zero: there it is stored in headers, region tables and log entries.
func Checksum(b []byte, more ...[]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	sum := crc32.Update(0, table, b[:4])
	sum = crc32.Update(sum, table, []byte{0, 0, 0, 0})
	sum = crc32.Update(sum, table, b[8:])
	for _, p := range more {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

func put16(b []byte, v uint16) { binary.LittleEndian.PutUint16(b, v) }
func put32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }
func put64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }
