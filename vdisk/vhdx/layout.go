package vhdx

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/millrace-backup/millrace/vdisk"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	tib = int64(1) << 40

	sectorSize = 4 * kib // unit of the log and of what it patches, section 2.3

	headerAt1, headerAt2 = 64 * kib, 128 * kib  // section 2.2
	regionAt1, regionAt2 = 192 * kib, 256 * kib // section 2.2
	headerSize           = 4 * kib              // of the 64 KiB slot, section 2.2.2
	tableSize            = 64 * kib             // region table and metadata table

	maxTableEntries = 2047     // sections 2.2.3.1 and 2.6.1.1
	maxItemSize     = mib      // of a metadata item, section 2.6.1.2
	maxDiskSize     = 64 * tib // section 2.6.2.2
	minBlockSize    = mib      // section 2.6.2.1
	maxBlockSize    = 256 * mib

	// Limits of this package, where the format names none.
	maxFileSize = 128 * tib // twice the largest disk, for structures and slack
	maxLogSize  = 64 * mib  // Hyper-V and QEMU make 1 MiB
)

// guid is a GUID as it is stored: the first three fields little-endian, the
// rest byte by byte.
type guid [16]byte

// String returns the usual form, in lower case and without braces.
func (g guid) String() string {
	var b [16]byte
	binary.BigEndian.PutUint32(b[0:], binary.LittleEndian.Uint32(g[0:]))
	binary.BigEndian.PutUint16(b[4:], binary.LittleEndian.Uint16(g[4:]))
	binary.BigEndian.PutUint16(b[6:], binary.LittleEndian.Uint16(g[6:]))
	copy(b[8:], g[8:])
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// parseGUID is the reverse of String, for the constants below.
func parseGUID(s string) (g guid) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(g) {
		panic("vhdx: internal error: " + s + " is not a GUID")
	}
	binary.LittleEndian.PutUint32(g[0:], binary.BigEndian.Uint32(b[0:]))
	binary.LittleEndian.PutUint16(g[4:], binary.BigEndian.Uint16(b[4:]))
	binary.LittleEndian.PutUint16(g[6:], binary.BigEndian.Uint16(b[6:]))
	copy(g[8:], b[8:])
	return g
}

// Ids of regions and metadata items, in the form String gives.
const (
	regionBAT      = "2dc27766-f623-4200-9d64-115e9bfd4a08" // section 2.2.3.2
	regionMetadata = "8b7ca206-4790-4b9a-b8fe-575f050f886e"

	itemFileParameters = "caa16737-fa36-4d43-b3b6-33f0aa44e76b" // section 2.6.2
	itemDiskSize       = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
	itemDiskID         = "beca12ab-b2e6-4523-93ef-c309e000c746"
	itemLogicalSector  = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
	itemPhysicalSector = "cda348c7-445d-4471-9cc9-e9885251c556"
	itemParentLocator  = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
)

// checksum is the CRC-32C of b, computed as if the four bytes at offset 4
// were zero: there it is stored in headers, region tables and log entries.
func checksum(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	sum := crc32.Update(0, table, b[:4])
	sum = crc32.Update(sum, table, []byte{0, 0, 0, 0})
	return crc32.Update(sum, table, b[8:])
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

func put16(b []byte, v uint16) { binary.LittleEndian.PutUint16(b, v) }
func put32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }
func put64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

func badFormat(format string, args ...any) error {
	return fmt.Errorf("%w: %s", vdisk.ErrFormat, fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", vdisk.ErrUnsupported, fmt.Sprintf(format, args...))
}

func truncated(format string, args ...any) error {
	return fmt.Errorf("%w: %s", vdisk.ErrTruncated, fmt.Sprintf(format, args...))
}
