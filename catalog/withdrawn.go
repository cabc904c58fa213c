package catalog

import "github.com/millrace-backup/millrace/id"

// Bad are chunks that were withdrawn, by pack. A zero chunk stands for all that are
// in the pack.
type Bad map[PackKey]map[id.Chunk]bool

// Add enters a chunk, or the whole pack if it is zero.
func (b Bad) Add(p PackKey, c id.Chunk) {
	if b[p] == nil {
		b[p] = map[id.Chunk]bool{}
	}
	b[p][c] = true
}

// Whole reports whether all of a pack was withdrawn.
func (b Bad) Whole(p PackKey) bool { return b[p][id.Chunk{}] }

// Has reports whether a chunk that lies in a pack was withdrawn there.
func (b Bad) Has(p PackKey, c id.Chunk) bool {
	in := b[p] // most packs have none
	return in != nil && (in[c] || in[id.Chunk{}])
}

// Bad are the chunks withdrawn at this position of the ledger or behind it, of packs
// that are not retired: nobody reads those any more.
func (s *State) Bad(from uint64) Bad {
	out := Bad{}
	for w, at := range s.Withdrawn {
		if p := s.Packs[w.PackKey]; at >= from && (p == nil || p.Retired == 0) {
			out.Add(w.PackKey, w.Chunk)
		}
	}
	return out
}
