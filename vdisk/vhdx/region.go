package vhdx

import (
	"fmt"

	"github.com/millrace-backup/millrace/vdisk/overlay"
)

// region is a part of the file. Section 2.2.3.2.
type region struct {
	id             string
	offset, length int64
	required       bool // who does not know it must not open the file
}

// regions are the parts that an image is made of.
type regions struct {
	bat, metadata region
	all           []region // with the optional ones that are not known here
}

// readRegions returns the first valid of the two region tables.
func readRegions(v *overlay.Image) (regions, error) {
	b := make([]byte, tableSize)
	for _, at := range []int64{regionAt1, regionAt2} {
		if err := readFull(v, b, at); err != nil {
			return regions{}, fmt.Errorf("read region table: %w", err)
		}
		if string(b[:4]) == "regi" && checksum(b) == le32(b[4:]) {
			return parseRegions(b)
		}
	}
	return regions{}, badFormat("neither region table is valid")
}

func parseRegions(b []byte) (regions, error) {
	var out regions
	count := le32(b[8:])
	if count > maxTableEntries {
		return out, badFormat("region table has %d entries", count)
	}
	for i := range count {
		e := b[16+32*i:][:32]
		r := region{id: guid(e[:16]).String(), offset: int64(le64(e[16:])), length: int64(le32(e[24:])), required: le32(e[28:])&1 != 0}
		if r.offset < mib || r.offset%mib != 0 || r.length%mib != 0 || r.offset > maxFileSize {
			return out, badFormat("region %s: %d bytes at %d", r.id, r.length, r.offset)
		}
		var known *region
		switch r.id {
		case regionBAT:
			known = &out.bat
		case regionMetadata:
			known = &out.metadata
		default:
			if r.required {
				return out, unsupported("unknown region %s is required", r.id)
			}
		}
		if known != nil {
			if known.id != "" {
				return out, badFormat("region %s is listed twice", r.id)
			}
			*known = r
		}
		out.all = append(out.all, r)
	}
	if out.bat.length == 0 || out.metadata.length == 0 {
		return out, badFormat("region table lacks the BAT or the metadata")
	}
	return out, nil
}

// regionTable is a region table as it is stored.
func regionTable(list []region) []byte {
	b := make([]byte, tableSize)
	copy(b, "regi")
	put32(b[8:], uint32(len(list)))
	for i, r := range list {
		e := b[16+32*i:]
		g := parseGUID(r.id)
		copy(e, g[:])
		put64(e[16:], uint64(r.offset))
		put32(e[24:], uint32(r.length))
		if r.required {
			put32(e[28:], 1)
		}
	}
	put32(b[4:], checksum(b))
	return b
}
