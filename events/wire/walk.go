// Package wire measures msgpack that comes from outside the process, before anything
// decodes it. Begin with [Walk].
//
// The msgpack library takes lengths on trust, and thirteen bytes can make it ask for
// 8 GiB. What Walk has let pass has no length that is not covered by bytes that are there,
// and bounds on levels and values. Package events, whose facts it is for, says what that
// promises to whom; this one knows nothing of facts, allocates nothing and may be used by
// any number of goroutines.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// ErrMalformed is events.ErrMalformed.
var ErrMalformed = errors.New("malformed message")

const (
	// MaxMessage is events.MaxMessage.
	MaxMessage = 16 << 20
	// maxValues bounds how many values a message may hold. One byte of nil
	// becomes a whole struct in memory, so the length of the message alone
	// bounds nothing.
	maxValues = 1 << 18
	maxDepth  = 32
)

// Walk measures the first msgpack value in b without decoding it: it returns
// its length in bytes, or ErrMalformed if the value is cut off, nests deeper
// than 32 levels, has more than 262,144 values in it, or claims a length larger
// than the bytes that are left. It allocates nothing and its time is bounded by
// len(b).
func Walk(b []byte) (int, error) {
	if len(b) > MaxMessage {
		b = b[:MaxMessage] // a value that ends before this is still fine
	}
	// open[d] counts the values still missing at depth d.
	var open [maxDepth]int
	depth, off := 0, 0
	open[0] = 1
	for values := 0; ; values++ {
		if values == maxValues {
			return 0, fmt.Errorf("more than %d values: %w", maxValues, ErrMalformed)
		}
		for open[depth] == 0 {
			if depth == 0 {
				return off, nil
			}
			depth--
		}
		open[depth]--
		children, size, err := readCode(b[off:])
		if err != nil {
			return 0, fmt.Errorf("at byte %d: %w", off, err)
		}
		off += size
		if children > len(b)-off { // every value has at least one byte
			return 0, fmt.Errorf("at byte %d: %d values in %d bytes: %w", off, children, len(b)-off, ErrMalformed)
		}
		if children > 0 {
			if depth++; depth == maxDepth {
				return 0, fmt.Errorf("at byte %d: more than %d levels: %w", off, maxDepth, ErrMalformed)
			}
			open[depth] = children
		}
	}
}

// readCode reads the code at the start of b. It returns how many values follow
// inside it (arrays and maps) and how many bytes it takes itself, payload
// included.
func readCode(b []byte) (children, size int, err error) {
	if len(b) == 0 {
		return 0, 0, fmt.Errorf("cut off: %w", ErrMalformed)
	}
	c := b[0]
	switch {
	case msgpcode.IsFixedNum(c), c == msgpcode.Nil, c == msgpcode.False, c == msgpcode.True:
		return 0, 1, nil
	case msgpcode.IsFixedMap(c):
		return 2 * int(c&msgpcode.FixedMapMask), 1, nil
	case msgpcode.IsFixedArray(c):
		return int(c & msgpcode.FixedArrayMask), 1, nil
	case msgpcode.IsFixedString(c):
		return payload(b, 1, uint64(c&msgpcode.FixedStrMask))
	}
	width := lengthWidth(c)
	if width == 0 {
		return 0, 0, fmt.Errorf("code %#x: %w", c, ErrMalformed)
	}
	if len(b) < 1+width {
		return 0, 0, fmt.Errorf("cut off: %w", ErrMalformed)
	}
	var n uint64
	switch width {
	case 1:
		n = uint64(b[1])
	case 2:
		n = uint64(binary.BigEndian.Uint16(b[1:]))
	case 4:
		n = uint64(binary.BigEndian.Uint32(b[1:]))
	default: // eight bytes are always a number
		return 0, 9, nil
	}
	switch c {
	case msgpcode.Array16, msgpcode.Array32:
		return int(n), 1 + width, nil
	case msgpcode.Map16, msgpcode.Map32:
		return 2 * int(n), 1 + width, nil
	case msgpcode.Str8, msgpcode.Str16, msgpcode.Str32, msgpcode.Bin8, msgpcode.Bin16, msgpcode.Bin32:
		return payload(b, 1+width, n)
	case msgpcode.Ext8, msgpcode.Ext16, msgpcode.Ext32:
		return payload(b, 1+width, n+1)
	case msgpcode.FixExt1, msgpcode.FixExt2, msgpcode.FixExt4, msgpcode.FixExt8, msgpcode.FixExt16:
		return payload(b, 1, 1+uint64(1)<<(c-msgpcode.FixExt1))
	}
	return 0, 1 + width, nil // a number
}

// lengthWidth is the number of bytes behind code c that hold its length or its
// number; 0 for a code that msgpack does not have. (For the fixed ext codes it
// is the type byte.)
func lengthWidth(c byte) int {
	switch c {
	case msgpcode.Uint8, msgpcode.Int8, msgpcode.Str8, msgpcode.Bin8, msgpcode.Ext8,
		msgpcode.FixExt1, msgpcode.FixExt2, msgpcode.FixExt4, msgpcode.FixExt8, msgpcode.FixExt16:
		return 1
	case msgpcode.Uint16, msgpcode.Int16, msgpcode.Str16, msgpcode.Bin16, msgpcode.Ext16, msgpcode.Array16, msgpcode.Map16:
		return 2
	case msgpcode.Uint32, msgpcode.Int32, msgpcode.Float, msgpcode.Str32, msgpcode.Bin32, msgpcode.Ext32, msgpcode.Array32, msgpcode.Map32:
		return 4
	case msgpcode.Uint64, msgpcode.Int64, msgpcode.Double:
		return 8
	}
	return 0
}

// payload says that n bytes follow after the first head ones.
func payload(b []byte, head int, n uint64) (children, size int, err error) {
	if n > uint64(len(b)-head) {
		return 0, 0, fmt.Errorf("%d bytes of %d: %w", len(b)-head, n, ErrMalformed)
	}
	return 0, head + int(n), nil
}

// ArrayHeader reads the start of an array: its length and where its first
// value is.
func ArrayHeader(b []byte) (n, off int, err error) {
	if len(b) == 0 || !(msgpcode.IsFixedArray(b[0]) || b[0] == msgpcode.Array16 || b[0] == msgpcode.Array32) {
		return 0, 0, fmt.Errorf("not an array: %w", ErrMalformed)
	}
	n, off, err = readCode(b)
	if err == nil && n > len(b)-off {
		err = fmt.Errorf("%d values in %d bytes: %w", n, len(b)-off, ErrMalformed)
	}
	return n, off, err
}
