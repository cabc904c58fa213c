package ledger

import (
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/millrace-backup/millrace/events"
)

// tree is an RFC 6962 Merkle tree of which only the right edge is kept: the
// roots of its complete subtrees, largest first, one per set bit of size. That
// is all it takes to append and to know the root.
type tree struct {
	size uint64
	edge []events.Hash
}

// maxLeaves bounds the sizes we believe: far more than any ledger has, far less
// than where the arithmetic of trees overflows.
const maxLeaves = 1 << 48

// fits reports whether the edge has the shape that size asks for.
func (t tree) fits() bool {
	return t.size < maxLeaves && len(t.edge) == bits.OnesCount64(t.size)
}

// with returns the tree with further leaves; t itself stays as it is.
func (t tree) with(leaves ...events.Hash) tree {
	edge := append(make([]events.Hash, 0, len(t.edge)+len(leaves)), t.edge...)
	for _, h := range leaves {
		// Every trailing one of the old size is a subtree that this leaf completes.
		for range bits.TrailingZeros64(^t.size) {
			last := len(edge) - 1
			h = events.Hash(tlog.NodeHash(tlog.Hash(edge[last]), tlog.Hash(h)))
			edge = edge[:last]
		}
		edge = append(edge, h)
		t.size++
	}
	return tree{t.size, edge}
}

// root is the tree's RFC 6962 hash, the one tlog.TreeHash computes.
func (t tree) root() events.Hash {
	if len(t.edge) == 0 {
		h, _ := tlog.TreeHash(0, nil) // the hash of nothing; reads nothing
		return events.Hash(h)
	}
	h := t.edge[len(t.edge)-1]
	for i := len(t.edge) - 2; i >= 0; i-- {
		h = events.Hash(tlog.NodeHash(tlog.Hash(t.edge[i]), tlog.Hash(h)))
	}
	return h
}
