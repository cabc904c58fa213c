// Package chunkindex answers one question fast: is this chunk in the vault, and
// where?
//
// The index is a set of immutable files in the state directory, each made from
// chunk tables of the vault ([Refresh]) and shared by all jobs of the host. It is
// a cache: delete it and the next job builds it again. Every entry carries its
// own checksum, because a wrong place that went into a point's tables would be a
// chunk lost; a damaged entry is an unknown chunk, which costs space and no data.
// So is what a source that cannot be read would place. Any Refresh may replace and
// remove files; a job links those it was given to a folder of its own.
//
// A file, little-endian: magic "MRCHIX01", then u32 each: fanout bits, number of
// packs, number of covered tables, CRC-32C of the head, fanout and covered names; u64 number of
// entries; the fanout (2^bits + 1 counts, u32); covered table names (32 bytes
// each); packs (job 16, name 32, CRC-32C); entries in order of chunk id (id 32,
// pack, offset, stored, raw, CRC-32C: u32 each). The fanout is held in memory,
// four bytes for about 64 entries; a look-up is one read of a few KiB from the page
// cache. Nothing is mapped, so a truncated file is an error and not a SIGBUS.
//
// An [Index] may be used from many goroutines.
package chunkindex
