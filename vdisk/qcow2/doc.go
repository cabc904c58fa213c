// Package qcow2 reads and creates qcow2 disk images, the format of QEMU, after
// docs/interop/qcow2.txt of the QEMU project. All numbers in a qcow2 file are
// big-endian.
//
// Call [Open] with an image of the file's bytes (raw.Open makes one). What
// comes back is the guest's disk as it is now; [OpenSnapshot] gives it as it was
// at one of the internal snapshots that [Snapshots] lists. An image with a backing
// file needs it, which a vdisk.FindParent finds by what the image says about it.
// [Create] writes a disk into a new file, [NewWriter] one that takes its data in
// any order.
//
// Everything in the file is a cluster, 64 KiB by default:
//
//	0      header            size, features, where the rest is, the backing file's name
//	...    L1 table          64 bits for each L2 table: where it is
//	...    L2 tables         64 bits for each cluster of the disk: where it is, and how stored
//	...    clusters          the guest's data; compressed ones are packed into fewer bytes
//	...    refcounts         how often each cluster of the file is used
//
// A cluster that no L2 table has is the backing file's, or zeros; a zero cluster
// is zeros whatever the backing file has. With extended L2 entries that is said
// of each 32nd part of a cluster.
//
// Read are versions 2 and 3, with clusters of 512 bytes to 2 MiB, compressed by
// zlib or zstd, and with extended L2 entries. Refcounts say nothing to a reader,
// so an image whose dirty bit is set (they may be wrong) is read like any other.
// Refused with vdisk.ErrUnsupported, by name, are encrypted images, those whose
// data are in another file, backing files that are no files (nbd:, json:), and
// unknown incompatible features. An image that QEMU has marked as corrupt is
// refused with vdisk.ErrFormat: any of its tables may be wrong, and a backup of it
// would look like a good one.
//
// Guarantees. Open checks the header and the L1 table. L2 tables are checked when
// they are read, because all of them together may be as large as a disk: damage in
// them is an error of ReadAt or Extents, as is a cluster behind the end of the
// file (vdisk.ErrTruncated). That no cluster of the file is used twice is not
// checked. Memory is bounded whatever the file says: 24 bytes for each L1 entry
// while opening, of which there are at most 4 Mi, 16 MiB of L2 tables, and 16 MiB
// of clusters that were decompressed, or eight of them. ReadAt may be called in
// parallel; it allocates when a table is first needed or comes back, and for
// decompressing. Extents skips holes of the file inside clusters.
//
// The package does not change images that exist, merge them, or create ones with
// a backing file.
package qcow2
