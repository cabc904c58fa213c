// Package catalog is what the facts of a vault add up to: which points there
// are, of which guests, made by which jobs, kept in which packs.
//
// Fold a ledger with [Fold], or keep a [State] from [New] up to date with
// [State.Apply]. [State.Point] and [State.Job] understand what an operator
// types for a point and a job.
//
// # Words
//
// A *state* is the result of folding records in the order of the ledger. It is
// disposable: the same records always give the same state, whoever folds them.
// [State.Hash] is its fingerprint in a form that later programs keep computing;
// the fact StateHashed keeps it in the ledger, and [Replay] compares.
//
// # Guarantees
//
// Folding is a pure function of the records: it reads no clock, no file and no
// map in its own order. Facts of unknown kinds change nothing. A fact that
// refers to something that was never heard of changes nothing either; the
// catalog describes, it does not judge.
//
// A State is for one goroutine, or any number that only read.
//
// The package is not an index of chunks (see chunkindex) and keeps no history:
// who wants to know how a job went stage by stage reads the records.
package catalog
