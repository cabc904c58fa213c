// Package salvage finds out what can be read of a vault whose ledger is lost in part
// or whole, and reads it.
//
// [Survey] looks for points wherever they are written: in the segments of the ledger
// that still open, in catalog snapshots, in copies of points. Of each it says whether
// all that it needs is there; chunk tables that prune has written once more are followed
// through the facts and snapshots that tell of them. Disks that no point explains any more are put together
// from what the footers of packs say of their chunks. [Found.Write] and
// [Loose.Write] write a disk as a raw image.
//
// # Words
//
// A disk is *whole* when its map opens and every pack that it refers to is there and
// has the chunk in that place; *exact* when it was written and every byte of it was
// proven. A *loose* disk is known from footers only: its chunks are authentic, and so
// is where they were first read, but what lay elsewhere, what was found already
// stored, and which of two jobs' bytes belong together is unknown.
//
// # Guarantees
//
// Nothing is written to the vault and nothing is believed that does not
// authenticate: no byte of an image is another than one the vault sealed for that
// disk. What could not be read is zeros (on a loose disk: what an earlier job stored,
// or zeros), and listed. It needs PartMeta, and to write images PartData and PartIDs;
// neither the ledger's chain nor its checkpoints.
//
// It does not repair, does not judge which history is genuine, and reads no table
// that no point names.
package salvage
