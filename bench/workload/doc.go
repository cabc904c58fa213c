// Package workload makes the disk images that tests, the demo and the
// benchmark back up, without root and the same bytes every time.
//
// Start with [Tree]: it fills an ext4 file system with real files taken from a
// folder such as /usr, as a guest's disk holds them. [VHDX] wraps a raw image
// the way a Hyper-V export does. [Edit] changes, removes and adds files in the
// file system, as a day of work in a guest would, [Scatter] changes single
// blocks of an image and knows of no files, and [Check] has the file system
// checked. [Random] and [Zero] make the two extremes that no data set should be
// judged without, [Database] a volume of pages of a database, [Similar] guests that have
// most files in common.
//
// What is guaranteed: for the same arguments, the same files in the folder and
// the same e2fsprogs, the image has the same bytes, whoever makes it and when
// (owners, times, UUIDs and hash seeds are fixed). Nothing is mounted and no
// device is touched. An image is written in place; a call that fails leaves a
// partial file, which the caller removes with its folder.
//
// Tree needs mke2fs and debugfs, Edit debugfs, Check e2fsck (Debian: e2fsprogs), VHDX needs qemu-img
// (Debian: qemu-utils). Where one is absent the error wraps [ErrTool] and names
// it, so that a test can skip with that message.
//
// It is not a generator of synthetic files: ratios measured on made-up text say
// nothing about disks.
package workload
