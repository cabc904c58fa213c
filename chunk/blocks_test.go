package chunk

import (
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/id"
)

func newBlocks(t testing.TB, key byte) *Blocks {
	t.Helper()
	b, err := NewBlocks([32]byte{key}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	b.Disk(id.Guest{1}, id.Disk{2})
	return b
}

func bytesOf(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// The hashes of a sidecar are compared with those of a later version's.
func TestBlockHashesStayTheSame(t *testing.T) {
	b := newBlocks(t, 7)
	data := append(bytesOf(1, 8192), make([]byte, 4096)...)
	data = append(data, bytesOf(2, 1000)...)
	got := b.Hash(5<<20, data, nil)
	want := []string{"a523e54e2eaabdb8f7e7de00b96e37f4", "8a1205d19ca6e169ce7de9746b5485b9", "00000000000000000000000000000000", "14bc760f1963401dea72e8d56e2535f2"}
	for i := range got {
		if h := hex.EncodeToString(got[i][:]); h != want[i] {
			t.Errorf("block %d: %s, it was %s", i, h, want[i])
		}
	}
	sum := b.Sum(got)
	if h := hex.EncodeToString(sum[:]); h != "5d064dbd0e50ace93cb394f1c1f3e725" {
		t.Errorf("sum %s", h)
	}
}

// A block's hash tells content, place, disk and key apart, and nothing else.
func TestBlockHashes(t *testing.T) {
	b := newBlocks(t, 7)
	data := bytesOf(1, 1<<20)
	first := b.Hash(0, data, nil)
	seen := map[BlockHash]int{}
	for i, h := range first {
		if j, twice := seen[h]; twice {
			t.Fatalf("blocks %d and %d have one hash", i, j)
		}
		seen[h] = i
	}
	// By parts, and after others, it is the same.
	var parts []BlockHash
	for at := 0; at < len(data); at += 64 << 10 {
		b.Hash(int64(at+12345*4096), data[:4096], nil)
		parts = b.Hash(int64(at), data[at:at+64<<10], parts)
	}
	for i := range first {
		if parts[i] != first[i] {
			t.Fatalf("block %d by itself has another hash", i)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 { // any bit counts
		n := rnd.IntN(len(data))
		data[n] ^= 1 << rnd.IntN(8)
		k := n / 4096
		h := b.Hash(int64(k)*4096, data[k*4096:(k+1)*4096], nil)[0]
		if h == first[k] {
			t.Fatalf("byte %d does not count", n)
		}
		first[k] = h
	}
	same := bytesOf(9, 4096)
	one := b.Hash(0, same, nil)[0]
	if b.Hash(4096, same, nil)[0] == one {
		t.Error("equal blocks of two places show")
	}
	if newBlocks(t, 8).Hash(0, same, nil)[0] == one {
		t.Error("the key does not count")
	}
	b.Disk(id.Guest{1}, id.Disk{3})
	if b.Hash(0, same, nil)[0] == one {
		t.Error("equal blocks of two disks show")
	}
	b.Disk(id.Guest{1}, id.Disk{2})
	if b.Hash(0, same, nil)[0] != one {
		t.Error("a hash depends on what was hashed before")
	}
	// A short block is not that block with zeros behind it.
	short := b.Hash(0, same[:4000], nil)[0]
	copy(same[4000:], make([]byte, 96))
	if b.Hash(0, same, nil)[0] == short {
		t.Error("a short block and a whole one have one hash")
	}
}

func TestBlockHashesAllocateNothing(t *testing.T) {
	b := newBlocks(t, 7)
	data, out := bytesOf(1, 1<<20), make([]BlockHash, 0, 256)
	if n := testing.AllocsPerRun(5, func() { out = b.Hash(0, data, out[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
