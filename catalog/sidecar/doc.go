// Package sidecar keeps, for each disk of a guest, the hashes of its blocks as they
// were in the newest point, so that the next job can tell which blocks have changed
// where nothing else tells.
//
// A sidecar is a file per disk in the state directory, 0.4 % of the data it stands
// for, and a cache: it is bound to one point and to the disk's root in it, and one
// that is missing, of another point, half-written or damaged is as if it were not
// there. Then all chunks are compared by id, which is as right and costs more, and
// the job's own records make the next sidecar.
//
// Who does what. A chunker opens the parent's sidecar with [Open] and asks for cells
// one by one; with each parcel it sends on the records of its cells, as [Append]
// wrote them. The indexer gathers these in a file of the job, an [Update], and once
// the point is committed applies it: cell by cell, in place, so that the cost is that
// of what changed. Of a guest only one job runs at a time. A chunker that
// reads while an indexer writes all the same is told so: every look at a cell looks
// at the header after it.
//
// What a record is trusted with. Hashes that are wrong make blocks seem changed,
// which costs room; that a wrong hash equals that of the block now there has a chance
// of 2^-128. A record that is whole and out of date would be worse: it could call a
// block unchanged that has changed twice. Three things stand against it: a file is marked
// dirty, durably, before its first record is replaced; each record has a checksum
// over itself, its number and the file it is in; and cells that the newest point has
// no data in lose their records.
//
// docs/format/sidecar.md has the bytes.
package sidecar
