// Package seal is the fifth stage: it compresses and encrypts what is new.
//
// Reads: the raw bytes of a parcel and delta's verdicts. Writes: the sealed chunks
// of the parcel, back to back, into a sealed slot; their places go into the
// pieces, and the raw slot is released once the uploader's message is stored.
//
// Nothing leaves unproven: every sealed chunk is opened, decompressed and hashed
// again, and only if that gives the chunk's id does it go on. A raw slot that was
// overwritten, a codec's bug or a flipped bit in memory ends the job here instead
// of in a restore. A chunk that occurs twice in a parcel is sealed once.
//
// A crash before the hand-over is stored leaves both slots to be freed or found
// again (see package flow); after it, the second delivery's claim is stale.
package seal
