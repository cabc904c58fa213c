// Package saved keeps what a vault's facts add up to in the vault itself, so that
// whoever comes with nothing but the password need not fold the whole ledger.
//
// [Load] gives the state of now: the newest snapshot that may be believed, and the
// facts after it. [Save] leaves a snapshot for the next one, when enough facts have
// been added since the last; every command that signs calls it.
//
// # Words
//
// A *snapshot* is an object catalogs/<position>-<size>: a [catalog.State] folded
// from all facts before a position, sealed, and signed together with the size and
// root that the ledger had there. A *copy* is an object points/<point id>: the fact
// PointCommitted of a point that no snapshot holds yet. Together they let [Points]
// say what a vault has whose ledger is lost.
//
// # Guarantees
//
// A snapshot is never needed and never believed unread: it counts only if the
// vault's own key signed it, if all of it opens, if the ledger is proven to have its
// root at its position, if the writer's structs have the shape of ours, and if the
// state that comes out has the hash that went in. Anything else, a damaged one, one
// of another copy of the vault, one from before a rollback, costs time and nothing
// more. So it is not named in the ledger and no checkpoint covers it.
//
// Crash: a snapshot is put in one step like every object. Old ones are deleted after
// it, the newest three stay; a crash before that leaves more for the next to
// delete, and a reader that finds one gone takes another or the ledger.
//
// The package decides nothing about facts, and keeps nothing on this machine.
// The byte-exact form is docs/format/catalog.md.
package saved
