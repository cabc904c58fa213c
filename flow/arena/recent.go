package arena

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"github.com/millrace-backup/millrace/id"
)

// knownEntry is the size of one entry: half of a chunk's id.
const knownEntry = 16

// Recent is the job's table of chunks whose packs are durable, in shared memory:
// the indexer adds, every delta worker asks. It holds the first 16 bytes of each
// id in an open-addressed table. A chunk is added only after its pack is durable
// and journaled, so an answer "known" never points at bytes in flight (the delta
// trap). A full table takes no more, which costs dedup and nothing else; a table
// that says "known" wrongly is caught by the indexer, which resolves every
// reference by the whole id before a point is committed.
type Recent struct {
	words []uint64
	mask  uint64
	used  *atomic.Uint64 // in the arena: a restarted indexer goes on counting
}

// Recent returns the arena's table. One process may call Add; the others read.
func (a *Arena) Recent() *Recent {
	n := a.shape.RecentEntries
	if n == 0 {
		return &Recent{}
	}
	_, _, _, at, _ := a.shape.offsets()
	return &Recent{
		words: unsafe.Slice((*uint64)(unsafe.Pointer(&a.mem[at])), 2*n), mask: uint64(n - 1),
		used: (*atomic.Uint64)(unsafe.Pointer(&a.mem[usedAt])),
	}
}

func halves(c id.Chunk) (hi, lo uint64) {
	// A zero word marks a free entry; ids are keyed hashes, so forcing one bit
	// costs one bit of 128.
	return binary.LittleEndian.Uint64(c[0:]) | 1, binary.LittleEndian.Uint64(c[8:])
}

// Add enters a chunk, unless it is there or seven eighths of the table are taken:
// beyond that every question would walk far. The low half is written first: a
// reader that sees the high half sees all of the entry.
func (r *Recent) Add(c id.Chunk) {
	if r.Full() {
		return
	}
	hi, lo := halves(c)
	for n, i := uint64(0), hi>>1&r.mask; n <= r.mask; n, i = n+1, (i+1)&r.mask {
		switch atomic.LoadUint64(&r.words[2*i]) {
		case 0:
			atomic.StoreUint64(&r.words[2*i+1], lo)
			atomic.StoreUint64(&r.words[2*i], hi)
			r.used.Add(1)
			return
		case hi:
			if atomic.LoadUint64(&r.words[2*i+1]) == lo {
				return
			}
		}
	}
}

// Full reports whether the table takes no more: what was added since is not in it.
func (r *Recent) Full() bool { return r.mask == 0 || r.used.Load() >= r.mask-r.mask/8 }

// Has reports whether the chunk was added.
func (r *Recent) Has(c id.Chunk) bool {
	if r.mask == 0 {
		return false
	}
	hi, lo := halves(c)
	for n, i := uint64(0), hi>>1&r.mask; n <= r.mask; n, i = n+1, (i+1)&r.mask {
		switch atomic.LoadUint64(&r.words[2*i]) {
		case 0:
			return false
		case hi:
			if atomic.LoadUint64(&r.words[2*i+1]) == lo {
				return true
			}
		}
	}
	return false
}
