// Package peers runs Millrace and other backup programs over the same disk image in
// the same minutes, and says what each took.
//
// [Measure] is all of it. The image holds one file system with real files; rates are of
// its allocated bytes, as nobody reads holes. Five phases, all programs in turn within
// each: a first backup; a second of the same image; that again, with the programs
// that trust a file's times told to read it all the same (restic --force, borg
// --files-cache=disabled); one after 1 % of all 4 KiB blocks were overwritten,
// scattered, from a fixed seed; and a restore of the last to a raw file, which must be
// equal to the image byte by byte. All of it is done as many times as asked for, with
// new repositories and another order of the programs; the table has medians and ranges.
//
// Before every measurement the image is read once, so that all find it in the page
// cache, and dirty pages are written out. Processor time and the largest process are
// what the kernel accounts to the program's process and all descendants it waited for;
// for Millrace that is checked against the workers' own account. Memory is the sum over
// all its processes, shared pages counted once, looked at four times a second. Stored is
// what du says the repository grew by.
//
// Millrace runs with its defaults (XAES-256-GCM, codec auto), restic with its own
// (AES-CTR, zstd), borg with repokey-blake2 and lz4. Another program is described by an
// [Adapter]. A program that is not installed is left out and said to be.
package peers
