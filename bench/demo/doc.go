// Package demo tells the story of Millrace on one machine, with real input: a
// disk with real files is backed up, changed, backed up again, and both points
// are restored and compared with what the disk was.
//
// Call [Run]. It makes a folder, fills an ext4 file system with files of this
// machine, wraps it as a dynamic VHDX, and from there on runs the program
// itself, as a user would type it: each command line is printed before its
// output, and with Options.Keep they can be typed again in the folder that is
// left. The last line is "demo: everything equal".
//
// With Options.Running a small Linux is booted in QEMU, backed up twice while it writes,
// restored and booted again, and finds its files whole (package guest); where something
// for that is missing, it says what.
//
// What is guaranteed: nil means that every byte of both restored disks was
// compared with the disk of that day, that the first restored file system is
// sound where e2fsck is there to say so, that the vault was read back whole, and
// that the second backup stored less than half of the first. [ErrDiffers] is
// what is wrapped when one of these does not hold. Nothing outside the folder is
// written, no privilege is needed, and settings of the user (MILLRACE_*) are not
// used. The folder needs room for about four times the size of the disk.
//
// It needs mke2fs and debugfs (Debian: e2fsprogs); without them the error is
// workload.ErrTool. It is not a benchmark: speeds are those of the first try,
// with whatever else the machine was doing (see bench/peers).
package demo
