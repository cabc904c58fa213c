// Package layers writes the tables of a guest's point: one chunk table, and an
// extent table for each disk that has changed.
//
// A disk that has not changed keeps its parent's layers and gets none; a changed
// one that has as many as it may gets a new base. So does one whose size has
// changed: what an old layer has beyond the end of a disk that shrank must not
// come back when the disk grows again.
//
// [Write] goes over the pieces of the disks three times: once to keep them in a
// scratch file and to find out which of them is the first use of its chunk, once
// for the chunk table, which lists chunks in that order, and once for the extents,
// which name them by their number in it.
//
// Memory does not grow with the pieces, but for one bit for each and some 50 bytes
// for each pack: what has to be sorted is sorted in a scratch file (see package
// spill). 16 million pieces are 2 MiB.
package layers
