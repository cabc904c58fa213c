// Package inplace changes a VHDX file that exists, so that whenever the power
// fails or the process is killed, the file is valid and has everything that was
// flushed.
//
// Call [Path], or [Open] with an image of the file and the same file for writing.
// A log that waits in the file is replayed for good. What comes back is a disk:
// [Disk.ReadAt], [Disk.WriteAt], [Disk.Zero], [Disk.Trim], [Disk.Flush] and
// [Disk.Close], all of which may be called from many goroutines. Blocks that are
// absent get a place when they are first written to. In a differencing image such
// a block takes all its bytes from the parent at once, so that no sector bitmap
// ever changes.
//
// Only the block allocation table changes by the log. The order is:
//
//	new ids         both headers, one after the other, before the first change
//	payload         written to its place; a new block is in no table yet
//	sync            data before the entry that names it
//	log entry       the changed sectors of the table, whole or not at all
//	sync            log entry before the table in place
//	(first time)    both headers say that there is a log to replay
//	table in place  made durable by the next sync, before the next log entry
//
// An entry of the log replaces all entries before it, because what these changed
// is durable when it is written; and it never lies where the one before it lies.
// So at any instant the log has one whole entry at least, and replaying the newest
// gives the table that the last flush left.
//
// Guarantees. What was written before a Flush that returned nil is there after a
// crash; what was not flushed is there, or not, or half, sector by sector; never
// is anything else: not bytes of another block, not what an unused part of the
// file held. An error of Flush is final: nothing is written after it, and the log
// is left for who opens the file next. The file never becomes smaller; the
// room of trimmed blocks is used again.
//
// Departures from the specification: the first entry of a session is written to
// the log before the header names the log, where section 2.2.2 has it the other
// way round. By that order a crash in between would leave a header whose log has no valid
// entry, which readers must refuse; by ours it leaves one that says the log is
// empty, as it says before.
//
// A block that has a place in the table and is not present (undefined, unmapped)
// keeps that place to itself; when it is written to it gets another one, and the old
// one is free when the image is opened the next time.
//
// One Disk at a time may have a file. Path sees to that by a lock, which keeps out
// only who asks for it; Hyper-V's own locks keep out everybody. Who calls Open sees
// to it himself.
package inplace
