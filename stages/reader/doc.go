// Package reader is the second stage: it brings a parcel's bytes into the arena.
//
// Reads: parcels from snapshot, whose runs say where the frozen disk may hold
// data. Writes: the bytes of the whole parcel into a raw slot, zeros where there
// is no run, and hands its claim to chunker. The runs go along: what is outside them
// need not be looked at again.
//
// A crash at any step: before the hand-over is stored the slot is still being
// filled, the conductor frees it once the process has been reaped, and the parcel
// is delivered to another reader. After it the chunker owns the slot, and the
// second delivery makes a duplicate that later stages drop. Nothing outside the
// arena is touched.
//
// All readers of a host together keep to a rate, if one is set (see package pace): each
// waits before a read, with the slot in its hands.
//
// An unreadable source parks the guest: it gets no point, other guests go on.
package reader
