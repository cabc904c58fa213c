// Package merkle is the tree over a ledger: the Merkle tree of RFC 6962, section 2.1, of
// which only the right edge is kept, since that is all it takes to append and to know the
// root.
//
// A [Tree] is a value: [Tree.With] returns another one with more leaves. Sizes and edges
// that come from outside are checked with [Tree.Fits] before anything is done with them.
package merkle

import (
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/millrace-backup/millrace/events"
)

// Tree is an RFC 6962 Merkle tree of which only the right edge is kept: the
// roots of its complete subtrees, largest first, one per set bit of size. That
// is all it takes to append and to know the root.
type Tree struct {
	Size uint64
	Edge []events.Hash
}

// maxLeaves bounds the sizes we believe: far more than any ledger has, far less
// than where the arithmetic of trees overflows.
const maxLeaves = 1 << 48

// Fits reports whether the edge has the shape that size asks for.
func (t Tree) Fits() bool {
	return t.Size < maxLeaves && len(t.Edge) == bits.OnesCount64(t.Size)
}

// With returns the tree with further leaves; t itself stays as it is.
func (t Tree) With(leaves ...events.Hash) Tree {
	edge := append(make([]events.Hash, 0, len(t.Edge)+len(leaves)), t.Edge...)
	for _, h := range leaves {
		// Every trailing one of the old size is a subtree that this leaf completes.
		for range bits.TrailingZeros64(^t.Size) {
			last := len(edge) - 1
			h = events.Hash(tlog.NodeHash(tlog.Hash(edge[last]), tlog.Hash(h)))
			edge = edge[:last]
		}
		edge = append(edge, h)
		t.Size++
	}
	return Tree{t.Size, edge}
}

// Root is the tree's RFC 6962 hash, the one tlog.TreeHash computes.
func (t Tree) Root() events.Hash {
	if len(t.Edge) == 0 {
		h, _ := tlog.TreeHash(0, nil) // the hash of nothing; reads nothing
		return events.Hash(h)
	}
	h := t.Edge[len(t.Edge)-1]
	for i := len(t.Edge) - 2; i >= 0; i-- {
		h = events.Hash(tlog.NodeHash(tlog.Hash(t.Edge[i]), tlog.Hash(h)))
	}
	return h
}
