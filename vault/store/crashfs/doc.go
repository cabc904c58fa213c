// Package crashfs is a disk that loses power, for tests.
//
// [Disk] is a file system in memory that keeps two things apart for every file
// and every name in every folder: what the processes see, and what is on the
// medium. [Disk.Crash] answers what a power cut at this instant may leave, by a
// [Mode] and a seed. [Faulty] fails the n-th operation of any file system. Both
// are a dir.FS, so the real store runs on them; an [Effect] log, taken from a Disk
// or from a trace of the real programs, is applied to a Disk effect by effect,
// and every prefix of it is an instant at which the power may go.
//
// Words. An *effect* is one change of the disk: a file made, bytes written, a
// name given. What is *unsynced* has not been followed by a successful fsync of
// its file (bytes, length) or of its folder (names).
//
// The rules, which are those of POSIX and not of one kind file system:
//
//   - fsync of a file makes its bytes and length durable, not its name. fsync of
//     a folder makes the names in it durable: not the bytes of the files, not the
//     folder's own name.
//   - Unsynced bytes are on the medium, or not, or half: write by write and sector
//     by sector, in any order; the length may be there before the bytes, which then
//     are zeros or whatever lay on the medium.
//   - Unsynced changes of different names are independent, in one folder too. Of one
//     name, a later change is not there without the earlier ones.
//   - A rename that replaces is old or new, never neither, and the old name of a
//     renamed file does not go before the new one is there; it may stay.
//   - A failed fsync of a file loses what was unsynced: the processes go on seeing
//     it, the next fsync succeeds, and the medium never gets it. A failed fsync of
//     a folder loses nothing by itself.
//
// What is not modelled: permissions, times, symbolic links, mapped writes, damage of
// what was synced (the campaign of flipped bits does that).
package crashfs
