// Package heal is what follows when stored chunks are found damaged.
//
// # Words
//
// A *place* is a chunk in one pack. A place that was *withdrawn* may not be referred
// to any more (events.ChunkWithdrawn). A *copy* of a chunk is another place of it. A
// point is *healed* when all that it refers to can be read again.
//
// # The way of a damaged chunk
//
// verify finds it. [Eye.Again] takes a second look, so that a fault that passes is not
// taken for damage; [Sight.Withdraw] makes the facts of it, and [Touched] finds the points
// that need it. From then on no backup refers to the place: the next that reads the
// same bytes stores them as a new chunk of the same id. [Work.Replace] then writes the
// chunk tables that list the place once more, with the same rows, numbers and root, and
// the copy in its stead. Points are read with those tables from then on, by every reader,
// because the catalog has known how since prune moves chunks (docs/adr/0026, 0023).
//
// # Guarantees
//
// Nothing is overwritten. A copy is opened, unpacked and compared with its id before a
// table names it. A fact stands only if nothing was said meanwhile that it does not
// know of (ledger.Guard), and each step can be left out or done again: a crash leaves a
// table that nobody names, and the next backup or verify does what is left.
//
// Facts are bounded: of a pack with more than [MaxChunks] damaged chunks, one fact
// withdraws all.
package heal
