package chunk

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/millrace-backup/millrace/id"
)

// BlockHash stands for the content of one block at one place of one disk: two of
// the same place are equal if and only if the blocks are. That of a block of zeros
// is zero.
type BlockHash [16]byte

// BlockSum stands for a stretch of blocks, as BlockHash does for one.
const BlockSum = 16

// Blocks hashes the blocks of disks, so that what changed between two points can be
// told without the older one's bytes. It is for one goroutine and allocates nothing
// after NewBlocks and [Blocks.Disk].
//
// For a block of bytes B that is not all zeros, number n of its disk (its offset
// divided by the block size), with two AES-256 keys k1 ‖ k2 = BLAKE3's
// derive_key("millrace 2026 chunk blocks", id key) and a tag d of the disk:
//
//	AES(k2, GMAC(k1, nonce = d (4 bytes) ‖ n (8 bytes, big-endian), B))
//
// GMAC is AES-GCM's tag of B as additional data and no plaintext (NIST SP 800-38D).
// A guest that wants a change to go unseen has to find two blocks with one GMAC
// under a key it does not have, and it never sees a tag: of any two blocks that it
// picks, its chance is below 2^-119. A nonce comes back whenever its place is hashed
// again, which plain GMAC does not forgive; the second cipher keeps what that would
// tell from whoever steals hashes. To a thief they are random numbers, which say
// where blocks are zero and, with hashes of another time, which have changed.
type Blocks struct {
	size  int
	mac   cipher.AEAD
	prp   cipher.Block
	none  []byte
	nonce [12]byte
	tag   [16]byte // here and not on the stack: prp is an interface, it would escape
	salt  [32]byte
}

// NewBlocks returns a Blocks for one goroutine, with blocks of size bytes. idKey is
// the dedup domain's id key.
func NewBlocks(idKey [32]byte, size int) (*Blocks, error) {
	keys := derive("blocks", idKey, 32+32+32)
	first, err := aes.NewCipher(keys[:32])
	if err != nil {
		return nil, err
	}
	b := &Blocks{size: size, none: make([]byte, size), salt: [32]byte(keys[64:])}
	if b.mac, err = cipher.NewGCM(first); err != nil {
		return nil, err
	}
	b.prp, err = aes.NewCipher(keys[32:64])
	return b, err
}

// Size is the size of a block in bytes.
func (x *Blocks) Size() int { return x.size }

// Disk says whose blocks the next calls hash.
func (x *Blocks) Disk(guest id.Guest, disk id.Disk) {
	h, _ := blake3.NewKeyed(x.salt[:]) // refuses only keys that are not 32 bytes long
	_, _ = h.Write(guest[:])
	_, _ = h.Write(disk[:])
	copy(x.nonce[:4], h.Sum(nil))
}

// Hash appends the hash of each block of b, which begins at a multiple of the block
// size, offset, of the disk. The last block may be shorter.
func (x *Blocks) Hash(offset int64, b []byte, dst []BlockHash) []BlockHash {
	for n := uint64(offset) / uint64(x.size); len(b) > 0; n++ {
		block := b[:min(x.size, len(b))]
		b = b[len(block):]
		if x.Zero(block) {
			dst = append(dst, BlockHash{})
			continue
		}
		binary.BigEndian.PutUint64(x.nonce[4:], n)
		x.mac.Seal(x.tag[:0], x.nonce[:], nil, block)
		x.prp.Encrypt(x.tag[:], x.tag[:])
		dst = append(dst, x.tag)
	}
	return dst
}

// Holes appends the hashes of so many blocks of zeros.
func (x *Blocks) Holes(blocks int, dst []BlockHash) []BlockHash {
	n := len(dst)
	dst = slices.Grow(dst, blocks)[:n+blocks]
	clear(dst[n:])
	return dst
}

// Zero reports whether b, at most a block, holds only zeros. Most data shows in the
// first word.
func (x *Blocks) Zero(b []byte) bool { return zeroed(b, x.none) }

// Sum is what a stretch of blocks with these hashes is known by: the first 16 bytes
// of SHA-256 over them.
func (x *Blocks) Sum(hashes []BlockHash) [BlockSum]byte {
	h := sha256.New()
	for i := range hashes {
		h.Write(hashes[i][:])
	}
	return [BlockSum]byte(h.Sum(nil))
}
