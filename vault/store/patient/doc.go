// Package patient waits for a store that is away for a moment: a network mount
// whose server restarts, a disk that was plugged out and in again, a read that
// failed once.
//
// [Patience] says for how long, and how to find out whether the store answers and
// is still the same one. [Wrap] makes any store patient: each call that meets a
// passing fault is made again when that is over. What takes several calls, such as
// an upload, cannot be repeated by the store alone; whoever does that asks a [Spell]
// after each failure whether to begin it anew.
//
// Passing are: the store is away ([store.ErrNoStore]), the network says so, an I/O
// error, a timeout of the system. Not passing, and returned at once: full, read-only
// (unless it became so while it was waited for: a disk that is torn off is first
// seen like that), not found, another store in its place ([store.ErrOther]), and
// whatever else.
//
// Repeating is safe because nothing in a store is ever overwritten: a put whose
// outcome is unknown is made again, and if the name is then taken by the very same
// bytes, it was ours. A wait ends early with its context.
//
// The package logs nothing; Tell hears what is waited for.
package patient
