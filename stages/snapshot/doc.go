// Package snapshot is the first stage: it freezes guests and cuts their disks
// into parcels.
//
// Reads: what the job is about, the driver, and what the indexer asks. Writes: to
// the indexer the plan of each guest (the facts GuestInspected, SnapshotTaken,
// ChangesResolved, and which parcels will come a second time), to reader the
// parcels themselves, then a random part of them again, so that an image that
// changed while it was read is noticed even if the operating system did not say
// so. At the end, asked by the indexer, it says whether the images held still
// (before the point is committed) and lets go of them (after).
//
// Where the driver knows what has changed since the point that is compared with, only that
// is read, in partial parcels, and a sample of the rest is compared first: see track and
// sample. While a running guest is read, watch slows the readers down if its own requests
// take too long.
//
// The record of each freeze is on disk before anything is sent. A crash at any
// step is followed by another process that takes up the same instant from the
// record (or finds that it is gone: the guest gets no point), and sends plan and
// parcels again from the start; whoever had them drops the second ones.
package snapshot
