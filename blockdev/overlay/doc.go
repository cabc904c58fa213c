// Package overlay holds what a guest writes to a disk that is served from a
// backup, which itself is never written to.
//
// [Create] makes an overlay in a folder, [Open] takes it up again, after a kill or a power
// cut too. It is a disk that knows what it does not have: [Overlay.ReadAt] is given what
// lies beneath and asks it for the missing sectors and no others, [Overlay.WriteAt] never
// asks it for anything, so that a write does not wait for a vault. [Overlay.Flush] makes
// durable all that was written before. [Overlay.Written] says what it has.
//
// # Words
//
// A *unit* is 4 KiB of the disk, aligned; a *sector* 512 bytes of it. A *slot* is 4 KiB of
// the data file. A *record* in the journal says which units lie in which slots, or are
// zeros. A *marker* is a record that says up to which record all is durable.
//
// # What is guaranteed
//
// A write that has returned survives the end of the process: its bytes and its record were
// given to the system, in this order. A guest goes on when the process that serves its
// disk is killed and started again, so a disk must not forget then, flushed or not. A
// write that was followed by a successful Flush survives the power. Of one that was
// not, each sector is as it was or as it was to be.
//
// A sync that fails is the last thing an overlay does: what the system has dropped it
// does not try again, and success afterwards would be a lie. (Opened again, it believes what
// the system shows: of a disk that fails syncs nobody knows what it has.) A disk that is full
// fails the write with syscall.ENOSPC, on Windows too, and harms nothing: the next write may
// succeed, and a full disk's overlay can be opened. A guest that never flushes does
// not fill the disk: after 256 MiB that wait for it the overlay flushes by itself.
//
// Writes, zeros and trims are of whole sectors; reads may begin and end at any byte.
//
// # How
//
// Every write goes to free slots and its record to the end of the journal, with a checksum of
// the bytes, so both files can be synced at once: a record without its bytes is seen, and
// could only be there if nobody was told that it is durable. A marker tells of what was there when
// its flush began, not of what came while it was under way. Slots whose units lie
// elsewhere by now are used again only when a marker after that is durable itself: up
// to what it tells of nothing needs to be checked, behind it nothing has been used again. So [Open]
// reads only the bytes behind that. It ends by writing what it found into the
// other of the two journals, which counts from then on; what it dropped cannot come
// back.
//
// Trimmed slots are used again; their room is not given back to the file system.
//
// Memory: some 64 bytes for each run of units that lies in one piece; a disk written to
// in order has few, one of 10 GiB of scattered blocks 170 MB.
//
// The byte-exact form is docs/format/overlay.md. The package knows no vault and no point.
package overlay
