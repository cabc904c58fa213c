// Package chunker is the third stage: it says where a cell's chunks begin and
// end, and names them.
//
// Reads: a parcel's raw bytes in the arena. Writes: nothing but the parcel, whose
// pieces (cuts, zero runs, chunk ids) it fills in; the claim on the bytes travels
// on. The cuts of a cell are a pure function of its bytes and the cut key, so
// that worker count, order and parcel size change nothing.
//
// A crash at any step leaves the slot with its message, which is delivered again.
package chunker
