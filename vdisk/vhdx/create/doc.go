// Package create makes new VHDX files, in one pass and in bounded memory: fixed
// and dynamic ones from a disk or from pieces of it in any order, and
// differencing ones on a given parent.
//
// Call [Disk] with a disk, [NewWriter] to write pieces, [Child] for what is
// different from a parent. What is zero takes no room: a dynamic image has no
// blocks for it, and blocks that are partly zero have holes where the file system
// makes them.
//
// Guarantees. A file that was not finished is no valid image, whenever the power
// failed: everything is durable before the first header is written. No log is
// needed for that, and none is left. Memory is 8 bytes for each block that is
// written to, in pages of 64 KiB.
//
// Images that exist are changed by vdisk/vhdx/inplace.
package create
