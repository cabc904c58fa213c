// Package indexer is the seventh and last stage: it turns what the others found
// out into facts, and commits recovery points.
//
// Reads: the plan of each guest, its parcels with the packs they went into, and
// faults. Writes: a journal in the job's folder (before anything is
// acknowledged), the job's table of durable chunks in shared memory (after the
// journal), and in the vault tables, ledger segments and checkpoints.
//
// A guest's point is committed in this order: its packs are durable (the
// uploader said so) → every parcel of the plan has come, every reference resolves
// to a durable pack, what was read twice was equal, and snapshot confirmed that
// the images held still → tables → one segment with PackStored, ChunksStored,
// ExtentsMapped, DiskSealed and PointCommitted → checkpoint → live copy → release.
//
// A pack may go while the job runs: somebody retires it, withdraws a chunk in it,
// or it is lost. What the point would have in it is then read and stored again, by
// parcels, before the commit; so is what the parent has in it.
//
// What a crash leaves. After a pack, before its parcels are journaled: they come
// again. After the journal, before the acknowledgement: they come again and are
// dropped. After tables, before the segment: tables that nobody names. After the
// segment, before the checkpoint: a committed point, adopted by the next writer;
// a restarted indexer finds it in the ledger and does not commit again. Before
// the release: the successor asks for it.
package indexer
