package vhdx

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/millrace-backup/millrace/vdisk/overlay"
)

// metadata is what the image says about its disk. Section 2.6.2.
type metadata struct {
	blockSize      int64
	diskSize       int64
	logicalSector  int
	physicalSector int
	diskID         guid
	fixed          bool // blocks stay allocated
	hasParent      bool
}

// Flags of a metadata table entry, section 2.6.1.2.
const (
	itemIsUser     = 1
	itemIsDisk     = 2 // describes the virtual disk, not the file
	itemIsRequired = 4
)

// readMetadata reads the metadata table and the items it knows.
func readMetadata(v *overlay.Image, r region) (metadata, error) {
	table := make([]byte, tableSize)
	if err := readFull(v, table, r.offset); err != nil {
		return metadata{}, fmt.Errorf("read metadata table: %w", err)
	}
	if string(table[:8]) != "metadata" {
		return metadata{}, badFormat("no metadata table at %d", r.offset)
	}
	count := int(le16(table[10:]))
	if count > maxTableEntries {
		return metadata{}, badFormat("metadata table has %d entries", count)
	}
	items := map[string][]byte{}
	for i := range count {
		e := table[32+32*i:][:32]
		name, off, length, flags := guid(e[:16]).String(), int64(le32(e[16:])), int64(le32(e[20:])), le32(e[24:])
		size := itemSize(name)
		if size == 0 || flags&itemIsUser != 0 {
			if flags&itemIsRequired != 0 {
				return metadata{}, unsupported("unknown metadata item %s is required", name)
			}
			continue
		}
		if items[name] != nil {
			return metadata{}, badFormat("metadata item %s is listed twice", name)
		}
		if length < size || length > maxItemSize || off < tableSize || off+length > r.length {
			return metadata{}, badFormat("metadata item %s: %d bytes at %d", name, length, off)
		}
		items[name] = make([]byte, size)
		if err := readFull(v, items[name], r.offset+off); err != nil {
			return metadata{}, fmt.Errorf("read metadata item %s: %w", name, err)
		}
	}
	return parseItems(items)
}

// itemSize is how much of a known item is read; 0 says it is not known.
func itemSize(name string) int64 {
	switch name {
	case itemFileParameters, itemDiskSize:
		return 8
	case itemLogicalSector, itemPhysicalSector:
		return 4
	case itemDiskID:
		return 16
	case itemParentLocator:
		return 20 // its header; differencing images are refused before it is needed
	}
	return 0
}

func parseItems(items map[string][]byte) (metadata, error) {
	for _, name := range []string{itemFileParameters, itemDiskSize, itemDiskID, itemLogicalSector, itemPhysicalSector} {
		if items[name] == nil {
			return metadata{}, badFormat("metadata item %s is missing", name)
		}
	}
	parameters := items[itemFileParameters]
	m := metadata{
		blockSize:      int64(le32(parameters)),
		fixed:          le32(parameters[4:])&1 != 0,
		hasParent:      le32(parameters[4:])&2 != 0,
		diskSize:       int64(le64(items[itemDiskSize])),
		diskID:         guid(items[itemDiskID]),
		logicalSector:  int(le32(items[itemLogicalSector])),
		physicalSector: int(le32(items[itemPhysicalSector])),
	}
	if err := m.check(); err != nil {
		return m, badFormat("%v", err)
	}
	return m, nil
}

// check returns an error for what section 2.6.2 does not allow.
func (m metadata) check() error {
	switch {
	case m.blockSize < minBlockSize || m.blockSize > maxBlockSize || bits.OnesCount64(uint64(m.blockSize)) != 1:
		return fmt.Errorf("block size %d", m.blockSize)
	case m.logicalSector != 512 && m.logicalSector != 4096:
		return fmt.Errorf("logical sector size %d", m.logicalSector)
	case m.physicalSector != 512 && m.physicalSector != 4096:
		return fmt.Errorf("physical sector size %d", m.physicalSector)
	case m.diskSize < 0 || m.diskSize > maxDiskSize || m.diskSize%int64(m.logicalSector) != 0:
		return fmt.Errorf("disk size %d with sectors of %d", m.diskSize, m.logicalSector)
	}
	return nil
}

// item is an entry of the metadata table with its content.
type item struct {
	id    string
	flags uint32
	b     []byte
}

// items are the five that every image has.
func (m metadata) items() []item {
	var parameters uint64
	if m.fixed {
		parameters |= 1 << 32 // after the block size; the same for the next
	}
	if m.hasParent {
		parameters |= 2 << 32
	}
	le := binary.LittleEndian
	return []item{
		{itemFileParameters, itemIsRequired, le.AppendUint64(nil, uint64(m.blockSize)|parameters)},
		{itemDiskSize, itemIsRequired | itemIsDisk, le.AppendUint64(nil, uint64(m.diskSize))},
		{itemDiskID, itemIsRequired | itemIsDisk, m.diskID[:]},
		{itemLogicalSector, itemIsRequired | itemIsDisk, le.AppendUint32(nil, uint32(m.logicalSector))},
		{itemPhysicalSector, itemIsRequired | itemIsDisk, le.AppendUint32(nil, uint32(m.physicalSector))},
	}
}

// metadataTable is a metadata region as it is stored: the table, then the
// items one after another.
func metadataTable(items []item) []byte {
	b := make([]byte, tableSize)
	copy(b, "metadata")
	put16(b[10:], uint16(len(items)))
	for i, item := range items {
		e := b[32+32*i:]
		g := parseGUID(item.id)
		copy(e, g[:])
		put32(e[16:], uint32(len(b)))
		put32(e[20:], uint32(len(item.b)))
		put32(e[24:], item.flags)
		b = append(b, item.b...)
	}
	return b
}
