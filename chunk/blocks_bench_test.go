package chunk

import (
	"crypto/rand"
	"testing"

	"github.com/millrace-backup/millrace/id"
	"github.com/zeebo/blake3"
	"github.com/zeebo/xxh3"
)

// What hashing every block costs, beside what else there is. go test ./chunk -bench BlockHash
func BenchmarkBlockHash(b *testing.B) {
	cell := make([]byte, 4<<20)
	_, _ = rand.Read(cell)
	x, err := NewBlocks([32]byte{1}, 4096)
	if err != nil {
		b.Fatal(err)
	}
	x.Disk(id.Guest{1}, id.Disk{2})
	out := make([]BlockHash, 0, 1024)
	b.Run("gmac-aes", func(b *testing.B) {
		b.SetBytes(int64(len(cell)))
		b.ReportAllocs()
		for range b.N {
			out = x.Hash(0, cell, out[:0])
		}
	})
	b.Run("sum", func(b *testing.B) {
		b.SetBytes(int64(len(cell)))
		for range b.N {
			x.Sum(out)
		}
	})
	b.Run("blake3", func(b *testing.B) {
		b.SetBytes(int64(len(cell)))
		h, _ := blake3.NewKeyed(make([]byte, 32))
		var sum [32]byte
		for range b.N {
			for at := 0; at < len(cell); at += 4096 {
				h.Reset()
				_, _ = h.Write(cell[at : at+4096])
				h.Sum(sum[:0])
			}
		}
	})
	b.Run("blake3-whole-64K", func(b *testing.B) {
		b.SetBytes(int64(len(cell)))
		ids := NewIDs([32]byte{})
		for range b.N {
			for at := 0; at < len(cell); at += 65536 {
				ids.ID(cell[at : at+65536])
			}
		}
	})
	b.Run("xxh3-aes", func(b *testing.B) {
		b.SetBytes(int64(len(cell)))
		a, _ := newAligned(Default(), [32]byte{})
		for range b.N {
			for at := 0; at < len(cell); at += 4096 {
				a.value(cell[at : at+4096])
			}
		}
	})
	_ = xxh3.Hash
}
