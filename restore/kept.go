package restore

import (
	"container/list"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/millrace-backup/millrace/id"
)

// kept holds chunks that are used again and again, up to limit bytes, the least
// recently used going first. A chunk comes in when it is decoded the second time:
// nearly all are used once, and copying those would cost more than it saves.
// It may be used from many goroutines.
type kept struct {
	limit int

	mu    sync.Mutex // guards all below
	size  int
	all   map[id.Chunk]*list.Element // of keptChunk
	order list.List                  // most recently used first
	seen  []uint64                   // by a chunk's first bytes: its next ones, when last decoded
}

type keptChunk struct {
	chunk id.Chunk
	plain []byte // never written to again
}

const seenSlots = 1 << 16

func newKept(limit int) *kept {
	return &kept{limit: limit, all: make(map[id.Chunk]*list.Element), seen: make([]uint64, seenSlots)}
}

// get returns the chunk's bytes, which must not be written to, or nil.
func (k *kept) get(c id.Chunk) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.all[c]
	if e == nil {
		return nil
	}
	k.order.MoveToFront(e)
	return e.Value.(keptChunk).plain
}

// offer says that a chunk was decoded. plain is copied if it is kept.
func (k *kept) offer(c id.Chunk, plain []byte) {
	slot, tag := binary.LittleEndian.Uint16(c[:]), binary.LittleEndian.Uint64(c[8:])
	k.mu.Lock()
	again := k.seen[slot] == tag
	k.seen[slot] = tag
	k.mu.Unlock()
	if !again || len(plain) > k.limit/4 {
		return
	}
	plain = slices.Clone(plain)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all[c] != nil {
		return
	}
	k.all[c] = k.order.PushFront(keptChunk{c, plain})
	for k.size += len(plain); k.size > k.limit; {
		last := k.order.Remove(k.order.Back()).(keptChunk)
		delete(k.all, last.chunk)
		k.size -= len(last.plain)
	}
}
