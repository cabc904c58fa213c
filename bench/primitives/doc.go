// Package primitives measures what a backup cannot do without, one thing at a time,
// and what the product makes of it, in one run.
//
// [Measure] takes an image through the steps of a job in one thread of this process:
// read, hash of blocks, cut, ids of chunks, compression with each codec, seal, verify
// (open, decompress, hash again), and write (packs, their SHA-256 and their fsync
// included). Each is done by the very functions that the stages call, on parcels
// that lie in an arena, and timed by itself. Chunks that occur twice are compressed
// once, as in a job. SHA-256 by itself is shown beside them; it is in "write".
//
// Beside that it runs the bare loop: the same work in as many goroutines as there are
// processors, each taking one parcel after the other from reading to writing,
// without processes, messages, index, ledger or hashes of blocks. And it runs the
// real thing: "millrace backup" into a new vault, with the default codec, with lz4
// and with bytes inline, and a job whose stages only forward as many claims (package
// relay). All are repeated and taken in turn; the result has medians and ranges.
//
// What comes of it is four lines: the processor time of all processes of a job beside
// the sum of the primitives, lz4 beside its bare loop, forwarding beside the job,
// and inline by itself.
//
// The sum is of the thread's own time in the same conditions as a worker's: one
// processor for Go, garbage collected as there. It leaves out what has no primitive:
// looking chunks up, messages, facts, tables, the password and starting processes.
package primitives
