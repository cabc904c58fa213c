// Package cutters measures how much of several similar disks each cutter finds to be
// the same, and how fast it cuts.
//
// [Measure] takes images of guests that have most files in common, laid out differently,
// and cuts all of them cell by cell, as chunker does, with each cutter that package
// chunk knows, at the sizes of new vaults. What it counts is data that is not zeros:
// found is the share of it whose chunk was there before, in the same disk or in an
// earlier one. Beside them stands what blocks of 4 KiB by themselves would find,
// which is the most that cuts at block borders can; a cutter is judged by how
// much of that it finds. Compression is not looked at: it does not depend on the cutter.
//
// Speed is that of cutting alone, one thread, bytes in memory, by processor time.
package cutters
