// Package direct writes a file's bytes past the page cache, where that is sound.
//
// A backup writes each byte once and does not read it again soon. By way of the page
// cache it would cost a copy, a page to find and, when memory is short, the guests'
// own pages, and the writer would be stopped whenever too much is dirty: on the machine
// of docs/performance.md 2.7 CPU-s/GiB against 0.15, and half the speed.
//
// [New] wraps an open file. A write goes past the cache if its place in the file, its
// length and its place in memory are multiples of [Align]; take buffers from [Buffer].
// [File.ReadBack] reads so, to see what is on the disk. Any other write goes through the file itself, and so does everything where the file
// system is not one of those known to do this well, or refuses. The two may be mixed
// as long as no two writes at once touch the same bytes.
//
// # Durability
//
// Nothing is promised before Sync of the wrapped file has returned, as with any write:
// a disk has a cache of its own, and a file's length and extents are metadata. Sync
// covers both ways, because both are writes to one inode.
//
// Linux on ext2 to ext4 and XFS; elsewhere all writes are ordinary ones. A network
// file system would wait for its server at each write.
package direct

import "unsafe"

// Align is what place and length of a direct write are multiples of, in bytes: no
// disk has larger sectors, and it is the size of a page.
const Align = 4096

// Buffer returns n bytes that begin at a multiple of Align.
func Buffer(n int) []byte {
	b := make([]byte, n+Align)
	skip := (Align - int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align)) % Align
	return b[skip : skip+n : skip+n]
}

// aligned reports whether b may be written at off directly.
func aligned(b []byte, off int64) bool {
	return len(b) > 0 && len(b)%Align == 0 && off%Align == 0 && uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align == 0
}
