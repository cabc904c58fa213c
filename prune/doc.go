// Package prune gives back the space of what is not needed any more.
//
// [Weigh] says what forgetting points would free. [Look] finds what nobody needs:
// tables that no listed point names, packs that no such table names, and packs of
// which little is still named. [Work.Retire] says so in the ledger and moves what is
// left of sparse packs; [Work.Delete] deletes what was retired long enough ago.
//
// # Words
//
// A point *needs* every pack that one of its chunk tables names and of every pack
// the chunks that those tables list, also where a newer layer hides them. A
// pack is *sparse* if less than a given share of its bytes is needed. To *retire*
// objects is to say that nobody may begin to need them; they are all there until
// they are *deleted*.
//
// # Guarantees
//
// Position decides. A segment with PacksRetired stands only if everything before it
// was considered: it is appended under a guard that refuses it when a point has been
// committed meanwhile that needs one of these objects. A job that is to commit after
// it reads it before (package trust) and stores again what it had found there. So of
// two that race, the one with the lower position is seen by the other.
//
// Objects are deleted when every job and every pinned reader that began before
// their retirement has ended, and when the margin for readers that cannot write is
// over. A job that has died holds them until it is fenced. What a forgotten point
// names is not retired while a job runs that may build upon that point.
//
// Whatever the program is doing when it is killed: objects that no fact names (a new pack, a new
// table: another prune finds them), retired objects of which some are deleted (another
// prune deletes the rest). There is no state outside the vault.
//
// Cost: [Look] reads the tables of forgotten points whole, of all others the index
// (48 bytes for each pack that it names), and whole those that name a pack of which
// much may have become free. It is bounded in memory by the number of packs. With Full it considers all
// packs, and lists the vault for objects that no fact names.
//
// The package decides nothing about points; see package retention.
package prune

import "errors"

// ErrStale: somebody has come to need, or has retired, what was to be retired.
// Looking again finds what is left.
var ErrStale = errors.New("the vault has changed meanwhile")

// ErrNotMoved: what is needed of sparse packs could not be copied elsewhere. They stay
// as they are; nothing is lost by it.
var ErrNotMoved = errors.New("sparse packs were not moved")
