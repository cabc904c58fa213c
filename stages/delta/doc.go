// Package delta is the fourth stage: it says what is new.
//
// Reads: a parcel's cuts and ids, the parent point's map of the disk, the host's
// chunk index, and the job's table of chunks whose packs are durable. Writes: a
// verdict on every piece. It never looks at the bytes.
//
// Unchanged is what the parent's map says of the same place. Known is a chunk
// that lies in a durable pack; a chunk whose pack is still being written is New,
// and a second copy of it is stored: an answer that points at bytes in flight
// loses data when messages overtake each other. What lies in a pack that the job
// distrusts is neither, nor is a chunk that was withdrawn there: it is New, and the
// point that comes of it does not need that place. A parcel with nothing new goes
// straight to the indexer, and so does one that is only read again to see that
// the image held still.
//
// A crash leaves the slot with its message. The stage has no state of its own.
package delta
