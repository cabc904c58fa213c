package vmconfig

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
)

// The binary form, as dissect.hypervisor describes it. All numbers are little-endian,
// structures are packed.
//
//	header    at 0 and at 4096; the one with the higher sequence number counts
//	          0 signature u32 | 4 checksum u32 | 8 sequence u16 | 10 version u32 | 14 ? u64
//	          22 alignment u32 | 26 log offset u64 | 34 log size u64 | 42 header size u32
//	log       0 signature u32 | 4 checksum u32 | 8 number of entries u32
//	objects   at 8192: 0 signature u32 | 4 number u32 | entries of 18 bytes
//	          0 type u8 | 1 checksum u32 | 5 offset u64 | 13 size u32 | 17 allocated u8
//	keys      0 signature u16 | 2 index u16 | 4 sequence u16 | 6 checksum u32 | entries
//	          0 type u8 | 1 flags u8 | 2 size u32 | 6 parent's table u16 | 8 parent's offset u32
//	          12 checksum u32 | 16 insertion u32 | 20 where the value is, from 21, u8
//	          21 name, NUL | value
//
// An entry without a parent's table is a root. The newest table of an index counts.
const (
	signStore   = 0x01282014
	signLog     = 0x01110003
	signObjects = 0x01110001
	signKeys    = 0x0002

	secondHeader  = 0x1000
	headerSize    = 46
	storeVersion  = 0x400
	objectsAt     = 0x2000
	objectSize    = 18
	keyTableSize  = 10
	keySize       = 21
	objectTables  = 1 // types of objects
	objectKeys    = 2
	keyFree       = 1 // types of keys
	keyInt        = 3
	keyUint       = 4
	keyDouble     = 5
	keyString     = 6
	keyArray      = 7
	keyBool       = 8
	flagElsewhere = 1 // the value is a length u32 and an offset u64 in the file
)

// keyTable is the newest table of its index.
type keyTable struct {
	b        []byte
	sequence uint16
}

// place names a key.
type place struct {
	table  uint16
	offset uint32
}

// readStore reads the binary form.
func (t *tree) readStore(b []byte) error {
	header, err := currentHeader(b)
	if err != nil {
		return err
	}
	if v := binary.LittleEndian.Uint32(header[10:]); v != storeVersion {
		return fmt.Errorf("%w: store of version %#x, only %#x is known", ErrUnsupported, v, storeVersion)
	}
	if log := part(b, binary.LittleEndian.Uint64(header[26:]), 12); log == nil || binary.LittleEndian.Uint32(log) != signLog {
		t.remarks = append(t.remarks, "the configuration's log is not where it should be")
	} else if n := binary.LittleEndian.Uint32(log[8:]); n > 0 {
		t.remarks = append(t.remarks, fmt.Sprintf("the configuration has %d changes in its log, which were not taken into account", n))
	}
	tables, err := keyTables(b)
	if err != nil {
		return err
	}
	return t.link(b, tables)
}

// part is b from off, at least size bytes of it, or nil.
func part(b []byte, off, size uint64) []byte {
	if off > uint64(len(b)) || size > uint64(len(b))-off {
		return nil
	}
	return b[off:]
}

func currentHeader(b []byte) ([]byte, error) {
	var header []byte
	for _, at := range []uint64{0, secondHeader} {
		h := part(b, at, headerSize)
		if h == nil || binary.LittleEndian.Uint32(h) != signStore {
			continue
		}
		if header == nil || binary.LittleEndian.Uint16(h[8:]) > binary.LittleEndian.Uint16(header[8:]) {
			header = h
		}
	}
	if header == nil {
		return nil, fmt.Errorf("%w: neither header is whole", ErrForm)
	}
	return header, nil
}

// keyTables finds the tables of keys in those of objects. No byte is in two tables: all
// tables together are no longer than the file, so reading them takes no longer either.
func keyTables(b []byte) (map[uint16]keyTable, error) {
	found := map[uint16]keyTable{}
	left := uint64(len(b))
	take := func(size uint64) error {
		if size > left {
			return fmt.Errorf("%w: its tables are longer than the file, so bytes are in more than one", ErrForm)
		}
		left -= size
		return nil
	}
	todo, seen := []uint64{objectsAt}, map[uint64]bool{objectsAt: true}
	for len(todo) > 0 {
		at := todo[0]
		todo = todo[1:]
		o := part(b, at, 8)
		if o == nil || binary.LittleEndian.Uint32(o) != signObjects {
			return nil, fmt.Errorf("%w: no table of objects at byte %d", ErrForm, at)
		}
		n := uint64(binary.LittleEndian.Uint32(o[4:]))
		if part(o, 8, n*objectSize) == nil {
			return nil, fmt.Errorf("%w: a table of %d objects at byte %d goes past the end", ErrForm, n, at)
		}
		if err := take(8 + n*objectSize); err != nil {
			return nil, err
		}
		for i := range n {
			e := o[8+i*objectSize:][:objectSize]
			off, size := binary.LittleEndian.Uint64(e[5:]), uint64(binary.LittleEndian.Uint32(e[13:]))
			if e[17] == 0 || e[0] != objectTables && e[0] != objectKeys || seen[off] {
				continue
			}
			seen[off] = true
			if e[0] == objectTables {
				todo = append(todo, off)
				continue
			}
			size = max(size, keyTableSize)
			k := part(b, off, size)
			if k == nil || binary.LittleEndian.Uint16(k) != signKeys {
				return nil, fmt.Errorf("%w: no table of keys at byte %d", ErrForm, off)
			}
			if err := take(size); err != nil {
				return nil, err
			}
			index, sequence := binary.LittleEndian.Uint16(k[2:]), binary.LittleEndian.Uint16(k[4:])
			if old, ok := found[index]; !ok || sequence > old.sequence {
				found[index] = keyTable{k[:size], sequence}
			}
		}
	}
	return found, nil
}

// link makes the tree. Every key has one parent, so what hangs on a root is a tree;
// keys that are each other's parents hang on none and are left out.
func (t *tree) link(b []byte, tables map[uint16]keyTable) error {
	type child struct {
		*node
		parent place
	}
	nodes := map[place]*node{}
	var all []child
	for index := range math.MaxUint16 + 1 {
		table, ok := tables[uint16(index)]
		if !ok {
			continue
		}
		k := table.b
		for off := uint64(keyTableSize); off+keySize <= uint64(len(k)); {
			e := k[off:]
			size := uint64(binary.LittleEndian.Uint32(e[2:]))
			if size == 0 {
				break
			}
			if size < keySize || size > uint64(len(e)) {
				return fmt.Errorf("%w: a key of %d bytes at %d of table %d", ErrForm, size, off, index)
			}
			if len(all) == maxNodes {
				return fmt.Errorf("%w: more than %d keys", ErrForm, maxNodes)
			}
			if e[0] != keyFree {
				n, err := t.key(b, e[:size])
				if err != nil {
					return fmt.Errorf("key at %d of table %d: %w", off, index, err)
				}
				at := place{uint16(index), uint32(off)}
				nodes[at] = n
				all = append(all, child{n, place{binary.LittleEndian.Uint16(e[6:]), binary.LittleEndian.Uint32(e[8:])}})
			}
			off += size
		}
	}
	for _, c := range all {
		parent := &t.root
		if c.parent.table != 0 {
			if parent = nodes[c.parent]; parent == nil {
				return fmt.Errorf("%w: key %q has no parent at %d of table %d", ErrForm, c.name, c.parent.offset, c.parent.table)
			}
		}
		parent.below = append(parent.below, c.node)
	}
	return nil
}

// key reads one key.
func (t *tree) key(b, e []byte) (*node, error) {
	at := int(e[20])
	body := e[keySize:]
	if at < 1 || at > len(body) {
		return nil, fmt.Errorf("%w: its value is at %d of %d bytes", ErrForm, at, len(body))
	}
	n := &node{name: string(body[:at-1])}
	value := body[at:]
	if e[1]&flagElsewhere != 0 {
		if len(value) < 12 {
			return nil, fmt.Errorf("%w: %q points to a value in %d bytes", ErrForm, n.name, len(value))
		}
		size := uint64(binary.LittleEndian.Uint32(value))
		if value = part(b, binary.LittleEndian.Uint64(value[4:]), size); value == nil {
			return nil, fmt.Errorf("%w: the value of %q, of %d bytes, is outside the file", ErrForm, n.name, size)
		}
		value = value[:size]
	} else if e[0] == keyString || e[0] == keyArray {
		if len(value) < 4 || uint64(binary.LittleEndian.Uint32(value)) > uint64(len(value)-4) {
			return nil, fmt.Errorf("%w: the value of %q goes past its key", ErrForm, n.name)
		}
		value = value[4:][:binary.LittleEndian.Uint32(value)]
	}
	need := map[byte]int{keyInt: 8, keyUint: 8, keyDouble: 8, keyBool: 4}[e[0]]
	if len(value) < need {
		return nil, fmt.Errorf("%w: the value of %q has %d bytes", ErrForm, n.name, len(value))
	}
	switch e[0] {
	case keyInt:
		n.value = strconv.FormatInt(int64(binary.LittleEndian.Uint64(value)), 10)
	case keyUint:
		n.value = strconv.FormatUint(binary.LittleEndian.Uint64(value), 10)
	case keyBool:
		n.value = strconv.FormatBool(binary.LittleEndian.Uint32(value) != 0)
	case keyString:
		n.value = t.string(value)
	}
	return n, nil // arrays and doubles are of no use to an inventory
}

// string is a text in UTF-16, cut to what is sensible: many keys may point to one
// large value.
func (t *tree) string(b []byte) string {
	b = b[:min(len(b)&^1, 2*maxText)]
	if t.text -= int64(len(b)); t.text < 0 {
		return ""
	}
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) > 0; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
