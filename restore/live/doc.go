// Package live reads the disks of a point where they lie, in any order and at any
// time: for a guest that runs straight from its backup, and for whoever looks into a
// disk without restoring it.
//
// [NewCache] makes the memory that all open disks of a process share; [Cache.Open] opens a
// disk, which is a vdisk.Image. A read finds the chunks of its range in the disk's map, takes
// from memory those that are there, and fetches the others: chunks that lie side by
// side in a pack with one request, several such runs at a time. What one reader
// fetches, others wait for and do not fetch again. [Image.Want] brings ranges in
// beforehand; a reader that goes through the disk in order is met by what comes
// next, ever further ahead the longer it does so.
//
// Guarantees. No byte is handed out that did not pass the AEAD, the frame and the chunk's
// id. Memory for chunks is bounded by the cache's size, plus what is just being
// fetched, at most half as much again. A fetch that fails is forgotten: the next read tries again. A
// vault that is away makes a read wait for as long as its store is patient (see
// vault/store/patient), then fail.
//
// Damage is vault.ErrDamaged and fails only the reads that need the damaged chunk.
//
// The package pins nothing: who reads for long tells prune so (events.ReaderPinned).
package live
