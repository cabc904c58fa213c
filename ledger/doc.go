// Package ledger keeps the facts of a vault in its store: an append-only,
// hash-chained, signed log, and the tables that hold what is too bulky for it.
//
// Call [Open] with the vault, [Ledger.Append] to add facts, [Ledger.Checkpoint]
// to sign what is there, [Ledger.Records] to read it back. [OpenReadOnly] checks
// the same chain without the password. Bulk facts are written with
// [WriteChunks] and [WriteExtents] and read with [OpenMap]. Package live carries
// records to followers while a job runs.
//
// # Words
//
// A *segment* is one object, ledger/<seq>: a clear header and a sealed body of
// records. The *position* of a fact is the seq of its segment. The *tree* is an
// RFC 6962 Merkle tree with a leaf per segment and one per table brought in; its
// *size* counts leaves. A *checkpoint* is a signed size and root. A *table* is
// sorted or streamed rows in sealed pages with an index; a *layer* is a pair of
// tables, extents and the chunks they refer to; a *map* is up to eight layers
// of one disk, newest on top.
//
// # Guarantees
//
// Order and durability: when Append returns, the facts have a position, every
// reader sees them there for ever, and they survive a loss of power. Appenders
// on any number of machines race for the next number with a put that never
// overwrites; the loser verifies the winner's segment and tries the next one.
// A segment that no checkpoint covers yet is adopted, never replaced.
//
// Authenticity: nothing is returned that was not proven to be in the tree whose
// root a checkpoint signs, or to continue it. An edited, missing, swapped or
// truncated segment, a fork, a forged or edited checkpoint and any changed bit
// of a table give an error in whose chain vault.ErrDamaged is. A vault set back
// to an earlier, valid state gives [ErrRollback], if the caller remembered a
// later checkpoint.
//
// The first segment is signed before there is a second: a longer ledger without a
// checkpoint that verifies is damaged.
//
// What can not be seen: that segments behind the newest checkpoint were cut off;
// and, without the password, that a clear header there was edited. A job signs
// before it reports success, so only the tail of a running or dead job is meant.
// Nor, by who remembers nothing, that the newest checkpoints were taken away.
//
// Concurrency: a [Ledger], [Map] and tables may be used by many goroutines.
//
// The package does not decide what a fact means, keeps no state that may not
// be lost, and deletes nothing. JetStream is not the ledger: what is in the vault
// is true, the live copy may vanish at any time.
//
// The byte-exact forms are docs/format/segment.md, checkpoint.md and table.md.
package ledger

import (
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/vault"
)

// The errors a caller decides by, besides vault.ErrDamaged and vault.ErrNewer.
var (
	// ErrRollback: the vault is in an earlier state than one that was seen.
	ErrRollback = errors.New("vault was set back to an earlier state")
	// ErrForked: the ledger is not the continuation of one that was signed or
	// seen. errors.Is(err, vault.ErrDamaged) holds too.
	ErrForked = fmt.Errorf("ledger has two histories: %w", vault.ErrDamaged)
	// ErrTooLarge: these facts or rows do not fit one object. Split them.
	ErrTooLarge = errors.New("too large for one object")
	// ErrFenced: another job has taken over; this one may append nothing more.
	ErrFenced = errors.New("another job has taken over")
	// ErrShredded: what this job seals in, nobody can read any more, so it may commit nothing.
	ErrShredded = errors.New("the guest was shredded while this job backed it up")
)
