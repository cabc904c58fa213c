package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/millrace-backup/millrace/vdisk"
)

const (
	sectorSize = 512
	footerSize = 512
	cookie     = "conectix"

	// maxDiskSize is the largest disk that the format is said to hold, which
	// is also the largest that QEMU and Hyper-V open.
	maxDiskSize = 2040 << 30

	noOffset = ^uint64(0) // where a fixed image would have its dynamic header
)

// What a disk is.
const (
	typeFixed        = 2
	typeDynamic      = 3
	typeDifferencing = 4
)

// footer is what describes a VHD.
type footer struct {
	version    uint32
	dataOffset uint64 // of the dynamic header
	stamp      uint32 // seconds since 2000
	creator    [4]byte
	size       uint64 // the current one
	cylinders  uint16
	heads      uint8
	sectors    uint8 // per track
	kind       uint32
	id         uuid.UUID
}

// checksum is the ones' complement of the sum of all bytes but the four at at,
// where the checksum itself is.
func checksum(b []byte, at int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < at || i >= at+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

const footerSumAt = 64

// parseFooter reads 511 or 512 bytes; the last byte is reserved and zero.
func parseFooter(b []byte) (footer, error) {
	if string(b[:8]) != cookie {
		return footer{}, vdisk.BadFormat("footer begins %q", b[:8])
	}
	if got, want := checksum(b, footerSumAt), binary.BigEndian.Uint32(b[footerSumAt:]); got != want {
		return footer{}, vdisk.BadFormat("footer has checksum %#x, its bytes give %#x", want, got)
	}
	be := binary.BigEndian
	f := footer{
		version: be.Uint32(b[12:]), dataOffset: be.Uint64(b[16:]), stamp: be.Uint32(b[24:]), creator: [4]byte(b[28:32]),
		size: be.Uint64(b[48:]), cylinders: be.Uint16(b[56:]), heads: b[58], sectors: b[59],
		kind: be.Uint32(b[60:]), id: uuid.UUID(b[68:84]),
	}
	return f, nil
}

// bytes is the footer as it is written. The original size is the current one.
func (f footer) bytes() []byte {
	b := make([]byte, footerSize)
	be := binary.BigEndian
	copy(b, cookie)
	be.PutUint32(b[8:], 2) // a bit that is always set
	be.PutUint32(b[12:], f.version)
	be.PutUint64(b[16:], f.dataOffset)
	be.PutUint32(b[24:], f.stamp)
	copy(b[28:], f.creator[:])
	be.PutUint32(b[32:], 0x000A0000) // the version of Windows
	copy(b[36:], "Wi2k")
	be.PutUint64(b[40:], f.size)
	be.PutUint64(b[48:], f.size)
	be.PutUint16(b[56:], f.cylinders)
	b[58], b[59] = f.heads, f.sectors
	be.PutUint32(b[60:], f.kind)
	copy(b[68:], f.id[:])
	be.PutUint32(b[footerSumAt:], checksum(b, footerSumAt))
	return b
}

// readFooter finds the footer at the end of the file, of either length, or its
// copy at the beginning, and checks it. length is how many bytes at the end of
// the file are not the disk's.
func readFooter(file vdisk.Image) (f footer, length int64, err error) {
	size := file.Size()
	if size < footerSize-1 {
		return f, 0, vdisk.Truncated("file of %d bytes has no footer", size)
	}
	var found error
	b := make([]byte, footerSize)
	for _, n := range []int64{footerSize, footerSize - 1} {
		if n > size {
			continue
		}
		if err := vdisk.ReadFull(file, b[:n], size-n); err != nil {
			return f, 0, err
		}
		if f, err = parseFooter(b[:n]); err == nil {
			return f, n, f.check()
		}
		// The one that begins as a footer does tells what is wrong.
		if found == nil || string(b[:8]) == cookie {
			found = err
		}
	}
	if size < footerSize {
		return f, 0, found
	}
	if err := vdisk.ReadFull(file, b, 0); err != nil {
		return f, 0, err
	}
	f, err = parseFooter(b)
	if err != nil {
		return f, 0, fmt.Errorf("neither the footer nor its copy can be used: %w", errors.Join(found, err))
	}
	if f.kind == typeFixed { // has no copy: this is the guest's own data
		return f, 0, found
	}
	return f, 0, f.check()
}

func (f footer) check() error {
	switch {
	case f.version>>16 != 1:
		return vdisk.Unsupported("version %d.%d", f.version>>16, f.version&0xFFFF)
	case f.kind != typeFixed && f.kind != typeDynamic && f.kind != typeDifferencing:
		return vdisk.Unsupported("disk type %d", f.kind)
	case f.diskSize() > maxDiskSize:
		return vdisk.Unsupported("disk of %d bytes; the format ends at 2040 GiB", f.diskSize())
	}
	return nil
}

// diskSize is how many bytes the guest sees. Virtual PC, Virtual Server and QEMU
// meant the geometry, which is a little less than the size that they wrote beside it
// or the same; where it is as large as it can be, or nothing, it says nothing. QEMU
// believes the geometry of all creators that it does not know. Here the bytes of
// those count, as for Hyper-V: a backup that ends with the geometry could lack the
// end of the disk.
func (f footer) diskSize() uint64 {
	meant := slices.Contains([]string{"vpc ", "vs  ", "qemu"}, string(f.creator[:]))
	largest := f.cylinders == 65535 && f.heads == 16 && f.sectors == 255
	size := uint64(f.cylinders) * uint64(f.heads) * uint64(f.sectors) * sectorSize
	if !meant || largest || size == 0 {
		return f.size
	}
	return size
}

// geometry is the specification's: what BIOS calls would say of a disk. It gives
// the largest one that is not larger than the disk, as far as there is one.
func geometry(size int64) (cylinders uint16, heads, sectors uint8) {
	n := min(size/sectorSize, 65535*16*255)
	var h, s, tracks int64
	if n >= 65535*16*63 {
		s, h = 255, 16
		tracks = n / s
	} else {
		s = 17
		tracks = n / s
		h = max(4, (tracks+1023)/1024)
		if tracks >= h*1024 || h > 16 {
			s, h = 31, 16
			tracks = n / s
		}
		if tracks >= h*1024 {
			s, h = 63, 16
			tracks = n / s
		}
	}
	return uint16(tracks / h), uint8(h), uint8(s)
}

// modified is a time as the format has it.
func modified(stamp uint32) time.Time {
	if stamp == 0 {
		return time.Time{}
	}
	return epoch().Add(time.Duration(stamp) * time.Second)
}

func epoch() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }
