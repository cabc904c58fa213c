// Package chunkindex answers one question fast: is this chunk in the vault, and
// where?
//
// The index is a set of immutable files in the state directory, made from chunk
// tables of the vault ([Refresh]) and shared by all jobs of the host; what a job
// stores while it runs it adds to files of its own ([Growing]). It is a cache:
// delete it and the next job builds it again. Every entry carries its own
// checksum, because a wrong place that went into a point's tables would be a
// chunk lost; a damaged entry is an unknown chunk, which costs space and no data.
// So is what a source that cannot be read would place. Any Refresh may replace and
// remove files; a job links those it was given to a folder of its own and opens
// that ([OpenFolders]).
//
// # Memory
//
// An open file costs its fanout, 4 bytes for 32 to 64 chunks and at most 2 MiB: a
// larger one is read when it is asked for, as entries and pack names are, from the
// page cache. The fanout in memory halves what a look-up reads.
// Refresh holds 4 MiB of rows, what merging needs, 8 bytes for 64 chunks and some
// 100 bytes for each pack; a Growing index holds its newest 65,536 chunks.
//
// # Files
//
// Files are merged so that each is at least four times as large as all smaller
// ones together: a look-up asks few, and a chunk is copied few times.
//
// A file, little-endian: magic "MRCHIX02", then u32 each: fanout bits, number of
// packs, number of covered sources, CRC-32C of the head, fanout and covered names;
// u64 number of entries; the entries in order of chunk id (id 32, pack, offset,
// stored, raw, CRC-32C: u32 each); the fanout (2^bits + 1 counts, u32); covered
// names (32 bytes each); packs (job 16, name 32, CRC-32C). Nothing is mapped, so a
// truncated file is an error and not a SIGBUS. Files of other versions are removed.
//
// An [Index] may be used from many goroutines.
package chunkindex
