package layout

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"github.com/millrace-backup/millrace/vdisk"
)

// Ids of metadata items, in the form GUID.String gives. Section 2.6.2.
const (
	ItemFileParameters = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
	ItemDiskSize       = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
	ItemDiskID         = "beca12ab-b2e6-4523-93ef-c309e000c746"
	ItemLogicalSector  = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
	ItemPhysicalSector = "cda348c7-445d-4471-9cc9-e9885251c556"
	ItemParentLocator  = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
)

// Metadata is what the image says about its disk. Section 2.6.2.
type Metadata struct {
	BlockSize      int64
	DiskSize       int64
	LogicalSector  int
	PhysicalSector int
	DiskID         GUID // the same in all images of a chain
	Fixed          bool // blocks stay allocated
	HasParent      bool
	Locator        Locator // says where the parent is, if there is one
}

// Flags of a metadata table entry, section 2.6.1.2.
const (
	itemIsUser     = 1
	itemIsDisk     = 2 // describes the virtual disk, not the file
	itemIsRequired = 4
)

// ReadMetadata reads the metadata table and the items it knows.
func ReadMetadata(v io.ReaderAt, r Region) (Metadata, error) {
	table := make([]byte, TableSize)
	if err := vdisk.ReadFull(v, table, r.Offset); err != nil {
		return Metadata{}, fmt.Errorf("read metadata table: %w", err)
	}
	if string(table[:8]) != "metadata" {
		return Metadata{}, vdisk.BadFormat("no metadata table at %d", r.Offset)
	}
	count := int(le16(table[10:]))
	if count > maxTableEntries {
		return Metadata{}, vdisk.BadFormat("metadata table has %d entries", count)
	}
	items := map[string][]byte{}
	for i := range count {
		e := table[32+32*i:][:32]
		name, off, length, flags := GUID(e[:16]).String(), int64(le32(e[16:])), int64(le32(e[20:])), le32(e[24:])
		size := itemSize(name)
		if size == 0 || flags&itemIsUser != 0 {
			if flags&itemIsRequired != 0 {
				return Metadata{}, vdisk.Unsupported("unknown metadata item %s is required", name)
			}
			continue
		}
		if items[name] != nil {
			return Metadata{}, vdisk.BadFormat("metadata item %s is listed twice", name)
		}
		if length < size || length > maxItemSize || off < TableSize || off+length > r.Length {
			return Metadata{}, vdisk.BadFormat("metadata item %s: %d bytes at %d", name, length, off)
		}
		if name == ItemParentLocator {
			size = length
		}
		items[name] = make([]byte, size)
		if err := vdisk.ReadFull(v, items[name], r.Offset+off); err != nil {
			return Metadata{}, fmt.Errorf("read metadata item %s: %w", name, err)
		}
	}
	return parseItems(items)
}

// itemSize is how much of a known item is read at least; 0 says it is not known.
func itemSize(name string) int64 {
	switch name {
	case ItemFileParameters, ItemDiskSize:
		return 8
	case ItemLogicalSector, ItemPhysicalSector:
		return 4
	case ItemDiskID:
		return 16
	case ItemParentLocator:
		return locatorHeader
	}
	return 0
}

func parseItems(items map[string][]byte) (Metadata, error) {
	for _, name := range []string{ItemFileParameters, ItemDiskSize, ItemDiskID, ItemLogicalSector, ItemPhysicalSector} {
		if items[name] == nil {
			return Metadata{}, vdisk.BadFormat("metadata item %s is missing", name)
		}
	}
	parameters := items[ItemFileParameters]
	m := Metadata{
		BlockSize:      int64(le32(parameters)),
		Fixed:          le32(parameters[4:])&1 != 0,
		HasParent:      le32(parameters[4:])&2 != 0,
		DiskSize:       int64(le64(items[ItemDiskSize])),
		DiskID:         GUID(items[ItemDiskID]),
		LogicalSector:  int(le32(items[ItemLogicalSector])),
		PhysicalSector: int(le32(items[ItemPhysicalSector])),
	}
	if err := m.Check(); err != nil {
		return m, vdisk.BadFormat("%v", err)
	}
	if !m.HasParent {
		return m, nil // a locator without a parent means nothing
	}
	if items[ItemParentLocator] == nil {
		return m, vdisk.BadFormat("differencing image without a parent locator")
	}
	var err error
	m.Locator, err = parseLocator(items[ItemParentLocator])
	return m, err
}

// Check returns an error for what section 2.6.2 does not allow.
func (m Metadata) Check() error {
	switch {
	case m.BlockSize < MinBlockSize || m.BlockSize > MaxBlockSize || bits.OnesCount64(uint64(m.BlockSize)) != 1:
		return fmt.Errorf("block size %d", m.BlockSize)
	case m.LogicalSector != 512 && m.LogicalSector != 4096:
		return fmt.Errorf("logical sector size %d", m.LogicalSector)
	case m.PhysicalSector != 512 && m.PhysicalSector != 4096:
		return fmt.Errorf("physical sector size %d", m.PhysicalSector)
	case m.DiskSize < 0 || m.DiskSize > MaxDiskSize || m.DiskSize%int64(m.LogicalSector) != 0:
		return fmt.Errorf("disk size %d with sectors of %d", m.DiskSize, m.LogicalSector)
	}
	return nil
}

// Item is an entry of the metadata table with its content.
type Item struct {
	ID    string
	Flags uint32
	Bytes []byte
}

// Items are the five that every image has and, where there is a parent, the
// locator.
func (m Metadata) Items() []Item {
	var parameters uint64
	if m.Fixed {
		parameters |= 1 << 32 // after the block size; the same for the next
	}
	if m.HasParent {
		parameters |= 2 << 32
	}
	le := binary.LittleEndian
	items := []Item{
		{ItemFileParameters, itemIsRequired, le.AppendUint64(nil, uint64(m.BlockSize)|parameters)},
		{ItemDiskSize, itemIsRequired | itemIsDisk, le.AppendUint64(nil, uint64(m.DiskSize))},
		{ItemDiskID, itemIsRequired | itemIsDisk, m.DiskID[:]},
		{ItemLogicalSector, itemIsRequired | itemIsDisk, le.AppendUint32(nil, uint32(m.LogicalSector))},
		{ItemPhysicalSector, itemIsRequired | itemIsDisk, le.AppendUint32(nil, uint32(m.PhysicalSector))},
	}
	if m.HasParent {
		items = append(items, Item{ItemParentLocator, itemIsRequired, m.Locator.bytes()})
	}
	return items
}

// MetadataTable is a metadata region as it is stored: the table, then the
// items one after another.
func MetadataTable(items []Item) []byte {
	b := make([]byte, TableSize)
	copy(b, "metadata")
	put16(b[10:], uint16(len(items)))
	for i, item := range items {
		e := b[32+32*i:]
		g := ParseGUID(item.ID)
		copy(e, g[:])
		put32(e[16:], uint32(len(b)))
		put32(e[20:], uint32(len(item.Bytes)))
		put32(e[24:], item.Flags)
		b = append(b, item.Bytes...)
	}
	return b
}
