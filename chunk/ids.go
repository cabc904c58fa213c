package chunk

import (
	"github.com/zeebo/blake3"

	"github.com/millrace-backup/millrace/id"
)

// IDs names chunks: BLAKE3 keyed with the dedup domain's id key, over the chunk's
// plain bytes. It is for one goroutine and allocates nothing after NewIDs.
type IDs struct {
	h   *blake3.Hasher
	out [32]byte
}

// NewIDs returns an IDs for one goroutine.
func NewIDs(idKey [32]byte) *IDs {
	h, err := blake3.NewKeyed(idKey[:])
	if err != nil {
		// NewKeyed refuses only keys that are not 32 bytes long.
		panic("chunk: internal error: " + err.Error())
	}
	return &IDs{h: h}
}

// ID is the name of the chunk with these bytes.
func (x *IDs) ID(b []byte) id.Chunk {
	x.h.Reset()
	_, _ = x.h.Write(b) // a hash does not fail
	x.h.Sum(x.out[:0])
	return x.out
}
