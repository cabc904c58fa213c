package rows

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/flow"
)

// Digest stands for the bytes of a parcel.
type Digest [16]byte

// Digests keeps a digest for each of any number of parcels. Which of them are
// asked for may be known only after all have been put.
type Digests struct{ f *os.File } // at 20 × number: digest 16 ‖ CRC-32C u32

const digestBytes = 16 + 4

// CreateDigests makes an empty file, over what a predecessor left there.
func CreateDigests(path string) (*Digests, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the digests of parcels: %w", err)
	}
	return &Digests{f}, nil
}

func sum(d []byte) uint32 { return crc32.Checksum(d, crc32.MakeTable(crc32.Castagnoli)) }

// Put keeps the digest of parcel n.
func (x *Digests) Put(n uint64, d Digest) error {
	var b [digestBytes]byte
	copy(b[:], d[:])
	binary.LittleEndian.PutUint32(b[16:], sum(d[:]))
	if _, err := x.f.WriteAt(b[:], int64(n)*digestBytes); err != nil {
		return fmt.Errorf("write %s: %w", x.f.Name(), err)
	}
	return nil
}

// Get returns the digest of parcel n, which was put.
func (x *Digests) Get(n uint64) (Digest, error) {
	var b [digestBytes]byte
	if _, err := x.f.ReadAt(b[:], int64(n)*digestBytes); err != nil {
		return Digest{}, fmt.Errorf("read %s: %w", x.f.Name(), err)
	}
	if sum(b[:16]) != binary.LittleEndian.Uint32(b[16:]) {
		return Digest{}, fmt.Errorf("read %s: parcel %d: %w", x.f.Name(), n, spill.ErrDamaged)
	}
	return Digest(b[:16]), nil
}

// Close closes the file.
func (x *Digests) Close() error { return x.f.Close() }

// DigestOf is the parcel's own sum, which does not depend on how it was cut; of
// one without, what its pieces are.
func DigestOf(p *flow.Parcel) (d Digest) {
	if len(p.Sum) == len(d) {
		return Digest(p.Sum)
	}
	h := sha256.New()
	var b [9]byte
	for i := range p.Pieces {
		x := &p.Pieces[i]
		binary.LittleEndian.PutUint32(b[:], x.Offset)
		binary.LittleEndian.PutUint32(b[4:], x.Length)
		b[8] = 0
		if x.Zero {
			b[8] = 1
		}
		h.Write(b[:])
		h.Write(x.Chunk[:])
	}
	return Digest(h.Sum(nil))
}
