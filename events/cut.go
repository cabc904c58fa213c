package events

import "encoding/binary"

// Cut takes the bytes of a hand-made form apart from the front: pages of tables,
// pieces of a parcel. After the first that are missing or malformed, Bad is set
// and all else is zero.
type Cut struct {
	Rest []byte
	Bad  bool
}

// Uvarint takes an unsigned LEB128 number that is written the shortest way.
func (c *Cut) Uvarint() uint64 {
	n, size := binary.Uvarint(c.Rest)
	if size <= 0 || size > 1 && c.Rest[size-1] == 0 {
		c.Bad, c.Rest = true, nil
		return 0
	}
	c.Rest = c.Rest[size:]
	return n
}

// Bytes takes n bytes; nil if there are not as many.
func (c *Cut) Bytes(n int) []byte {
	if n > len(c.Rest) {
		c.Bad, c.Rest = true, nil
		return nil
	}
	b := c.Rest[:n]
	c.Rest = c.Rest[n:]
	return b
}
