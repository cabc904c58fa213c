// Package chunker is the third stage: it says where a cell's chunks begin and
// end, and names them.
//
// Reads: a parcel's raw bytes in the arena, and the sidecar with the hashes of the
// parent point's blocks (package sidecar), if there is one. Writes: nothing but the
// parcel, whose pieces (cuts, zero runs, chunk ids), sum and records of
// blocks it fills in; the claim on the bytes travels on.
//
// A cell of which nothing is known is cut whole: its cuts are a pure function of its
// bytes and the cut key. Where the parent's hashes are known, blocks that are as
// they were keep the parent's map, a cell without a change is neither cut nor named,
// and the changed blocks of a cell are stored together, as one chunk: a splice. A
// cell with many changes behind it is cut whole again. Worker count, order and parcel
// size change nothing in any of this. What is read a second time, to see that the
// image held still, is compared by the sum over its blocks.
//
// A crash at any step leaves the slot with its message, which is delivered again.
package chunker
