package courier

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A letter that has bytes with it begins with a byte that msgpack never uses:
//
//	0xc1 | length of the head, u32 | CRC-32C of the bytes, u32 | head | bytes
//
// Numbers are little-endian. The sum is against accidents on the way: raw bytes
// are held against their chunk ids in seal, but sealed ones would be stored as
// they come.
const (
	withBytes = 0xc1
	frameHead = 9
	sealRoom  = 64 // more than a seal adds to a letter
)

// Frame makes one letter of a head and the bytes that travel with it.
func Frame(head, payload []byte) []byte {
	out := make([]byte, 0, frameHead+len(head)+len(payload)+sealRoom)
	out = append(out, withBytes)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(head)))
	out = append(out, 0, 0, 0, 0)
	out = append(append(out, head...), payload...)
	// Of the copy, which nobody else can change.
	binary.LittleEndian.PutUint32(out[5:], sum(out[frameHead+len(head):]))
	return out
}

// Unframe takes a letter apart. The payload is nil where none was framed; both
// are parts of b.
func Unframe(b []byte) (head, payload []byte, err error) {
	if len(b) <= frameHead || b[0] != withBytes {
		return b, nil, nil
	}
	n := uint64(binary.LittleEndian.Uint32(b[1:]))
	if n > uint64(len(b)-frameHead) {
		return nil, nil, fmt.Errorf("a letter of %d bytes has a head of %d", len(b), n)
	}
	head, payload = b[frameHead:frameHead+n], b[frameHead+n:]
	if sum(payload) != binary.LittleEndian.Uint32(b[5:]) {
		return nil, nil, fmt.Errorf("the bytes of a letter of %d have changed on the way", len(b))
	}
	return head, payload, nil
}

func sum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
