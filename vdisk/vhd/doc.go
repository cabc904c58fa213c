// Package vhd reads and creates VHD disk images, the older format of Hyper-V
// and the one of Virtual PC and Xen, after Microsoft's "Virtual Hard Disk Image
// Format Specification" of 2006. All numbers in a VHD are big-endian.
//
// Call [Open] with an image of the file's bytes (raw.Open makes one). What
// comes back is the guest's disk, of a fixed, a dynamic or a differencing image;
// the last needs its parent, which a vdisk.FindParent finds by what the child
// says about it. [Create] writes a disk into a new file, [NewWriter] one that
// takes its data in any order.
//
// A fixed image is the disk, and behind it 512 bytes that describe it, the
// footer. The others are laid out like this:
//
//	0      copy of the footer
//	512    dynamic header       where the table is, how large blocks are, the parent's name
//	...    block table (BAT)    32 bits for each block: the sector where it begins, or all ones
//	...    blocks               each a bitmap of its sectors, then their data; 2 MiB of data by default
//	...    parent locators      of differencing images: paths of the parent
//	end    footer
//
// In the bitmap the first sector is the highest bit of the first byte. A sector
// whose bit is not set has never been written: it reads as zeros in a dynamic
// image, as the parent's in a differencing one. (QEMU sets all bits of a dynamic
// image's block and does not look at them.)
//
// The size of the disk is what the footer says, except in images of three old
// programs, which meant cylinders times heads times sectors.
// Where the footer at the end is damaged its copy counts; a footer of 511 bytes,
// as Virtual PC wrote it, is one too.
//
// Guarantees. Open reads the whole BAT once and checks it: every block lies
// inside the file, and no two share a byte. An image whose file ends too early
// fails with vdisk.ErrTruncated, broken rules give vdisk.ErrFormat, what this
// package cannot read vdisk.ErrUnsupported. Memory is bounded whatever the file
// says: 4 bytes for each block while opening, of which there are at most 4 Mi,
// 8 MiB of BAT pages and 4 MiB of bitmaps; with a parent 1 MiB of each. ReadAt may be
// called in parallel and allocates only when a page or a bitmap is first needed, or
// comes back. Extents skips holes of the file inside blocks. The file of a fixed
// image, too, may have holes.
//
// The package does not change images that exist, and does not create
// differencing ones.
package vhd
