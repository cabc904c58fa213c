// Package table reads and writes a vault's bulk facts: which ranges of a disk
// are which chunks, and where those chunks lie.
//
// [WriteChunks] and [WriteExtents] write the two tables of a layer; [OpenMap]
// opens a disk of a point, whose layers it shows as one map. [MergeLayers]
// gives the rows of a new base layer when there would be too many.
//
// # Words
//
// A *table* is one immutable object: rows in sealed pages, an index, a clear
// header and trailer. A *chunk table* lists chunks and their place in packs; a
// chunk's *row number* is its place in the table, from 0. An *extent table*
// lists ranges of one disk in order, each zero or a part of a chunk, which it
// names by row number. The two together are a *layer*. A *map* is up to
// [MaxLayers] layers, newest first; what no layer covers is zero.
//
// Chunk tables may have their rows in any order. Written in the order in which
// the disks first use the chunks, a reader that walks a disk walks the chunk
// table too and holds few pages at a time; written in the order of their ids,
// [ChunkTable.Find] is quick and walking a disk jumps about in the table.
//
// # Guarantees
//
// Durability: a table is durable when its Write function returns, and nothing
// is visible under its name before. A crash in between leaves an unfinished
// upload that the store sweeps. A crash between the table and the segment that
// names it leaves a table that nobody knows of; prune finds it.
//
// Memory: a writer holds one page and the index (about 12 bytes per 1,500
// chunks or 4,096 extents), a reader the index and a bounded set of pages.
//
// Authenticity: every byte of a table is bound to its place; a changed, moved
// or missing one is vault.ErrDamaged. Rows are checked against their own
// promises (order, bounds) while they are read.
//
// Concurrency: open tables and maps may be used by many goroutines.
//
// The package does not know packs' contents and never reads a chunk. The
// byte-exact form is docs/format/table.md.
package table

import (
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/vault"
)

// The errors a caller decides by, besides vault.ErrDamaged and vault.ErrNewer.
var (
	// ErrRow: the caller's rows break a promise of the table they are for.
	ErrRow = errors.New("row out of order or bounds")
	// ErrTooLarge: more rows or pages than one table may have.
	ErrTooLarge = errors.New("too large for one table")
)

// damaged reports a table whose bytes are wrong, saying in which way.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), vault.ErrDamaged)
}
