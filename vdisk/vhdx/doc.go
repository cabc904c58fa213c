// Package vhdx reads VHDX disk images, the format of Hyper-V, after the published
// specification [MS-VHDX]; section numbers in comments are its.
//
// Call [Open] with an image of the file's bytes (raw.Open makes one). What comes
// back is the guest's disk: fixed, dynamic and differencing images (.avhdx) with
// any legal block size and both sector sizes. A differencing image holds what
// changed since its parent; a vdisk.FindParent gives the parent (vdisk/open has
// one), and the disk is the merged view. [Image.Own] lists what the image holds
// itself.
//
// A VHDX file is laid out like this, everything from 1 MiB on in multiples of
// 1 MiB and in any order:
//
//	0        file identifier       64 KiB
//	64 KiB   header 1, header 2    64 KiB each; the newer valid one counts
//	192 KiB  region table, twice   64 KiB each; says where BAT and metadata are
//	1 MiB    log                   changes to the structures that may be half done
//	...      metadata              block size, disk size, sector sizes, disk id, parent
//	...      BAT                   one entry for each block: its state and place
//	...      payload blocks        the guest's data, 1 to 256 MiB each
//	...      sector bitmaps        1 MiB each; which sectors of a block are not the parent's
//
// An image that was not closed cleanly has a log to replay, and without that
// its structures are wrong. Open replays it in memory: the file is never
// written, and everything is read through the replayed changes.
//
// Guarantees. Open checks the BAT up to 4 MiB of it, which is all of it for
// 16 TiB in blocks of 32 MiB: every present block lies inside the file and no two
// structures share a byte. What is beyond is checked when it is read, block by
// block, or by [Image.Check]. An image whose file ends too early fails with
// vdisk.ErrTruncated and names the block, broken rules give vdisk.ErrFormat, an
// unknown part that the writer marked as required gives vdisk.ErrUnsupported.
// Memory is bounded whatever the file says and however large the disk is: at most
// 16 MiB of BAT pages (2 MiB, and 1 MiB of bitmaps, where there is a parent), two
// bits for each MiB of the file while opening, and the log (at most 64 MiB, and 40 MiB
// for its changes) when it is not empty. ReadAt may be called
// in parallel and allocates only when a page is first needed. Extents skips holes
// of the file inside present blocks.
//
// The package writes nothing. New images are made by vdisk/vhdx/create, images
// that exist are changed by vdisk/vhdx/inplace.
//
// [MS-VHDX]: https://learn.microsoft.com/en-us/openspecs/windows_protocols/ms-vhdx/
package vhdx
