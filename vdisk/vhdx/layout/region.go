package layout

import (
	"fmt"
	"io"

	"github.com/millrace-backup/millrace/vdisk"
)

// Ids of regions, in the form GUID.String gives. Section 2.2.3.2.
const (
	RegionBAT      = "2dc27766-f623-4200-9d64-115e9bfd4a08"
	RegionMetadata = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
)

// Region is a part of the file. Section 2.2.3.2.
type Region struct {
	ID             string
	Offset, Length int64
	Required       bool // who does not know it must not open the file
}

// Regions are the parts that an image is made of.
type Regions struct {
	BAT, Metadata Region
	All           []Region // with the optional ones that are not known here
}

// ReadRegions returns the first valid of the two region tables.
func ReadRegions(v io.ReaderAt) (Regions, error) {
	b := make([]byte, TableSize)
	for _, at := range []int64{RegionAt1, RegionAt2} {
		if err := vdisk.ReadFull(v, b, at); err != nil {
			return Regions{}, fmt.Errorf("read region table: %w", err)
		}
		if string(b[:4]) == "regi" && Checksum(b) == le32(b[4:]) {
			return parseRegions(b)
		}
	}
	return Regions{}, vdisk.BadFormat("neither region table is valid")
}

func parseRegions(b []byte) (Regions, error) {
	var out Regions
	count := le32(b[8:])
	if count > maxTableEntries {
		return out, vdisk.BadFormat("region table has %d entries", count)
	}
	for i := range count {
		e := b[16+32*i:][:32]
		r := Region{ID: GUID(e[:16]).String(), Offset: int64(le64(e[16:])), Length: int64(le32(e[24:])), Required: le32(e[28:])&1 != 0}
		if r.Offset < MiB || r.Offset%MiB != 0 || r.Length%MiB != 0 || r.Offset > MaxFileSize {
			return out, vdisk.BadFormat("region %s: %d bytes at %d", r.ID, r.Length, r.Offset)
		}
		var known *Region
		switch r.ID {
		case RegionBAT:
			known = &out.BAT
		case RegionMetadata:
			known = &out.Metadata
		default:
			if r.Required {
				return out, vdisk.Unsupported("unknown region %s is required", r.ID)
			}
		}
		if known != nil {
			if known.ID != "" {
				return out, vdisk.BadFormat("region %s is listed twice", r.ID)
			}
			*known = r
		}
		out.All = append(out.All, r)
	}
	if out.BAT.Length == 0 || out.Metadata.Length == 0 {
		return out, vdisk.BadFormat("region table lacks the BAT or the metadata")
	}
	return out, nil
}

// RegionTable is a region table as it is stored, 64 KiB.
func RegionTable(list []Region) []byte {
	b := make([]byte, TableSize)
	copy(b, "regi")
	put32(b[8:], uint32(len(list)))
	for i, r := range list {
		e := b[16+32*i:]
		g := ParseGUID(r.ID)
		copy(e, g[:])
		put64(e[16:], uint64(r.Offset))
		put32(e[24:], uint32(r.Length))
		if r.Required {
			put32(e[28:], 1)
		}
	}
	put32(b[4:], Checksum(b))
	return b
}
