// Package sweep runs the backup of one image with many settings and says which of them
// is fastest, how far the defaults are from it, and where the processor time goes.
//
// [Measure] runs every point of [Points] once a round, in another order each round, each
// into a new vault: all pairs of a number of chunkers and a number of seals, and
// from the defaults one setting changed at a time: readers, deltas, uploaders, codecs,
// bytes inline, larger parcels. It is not the product of all of these, which no
// machine would finish. Rounds end when their number is reached or the time is up, so
// that a sweep ends in the time it was given.
//
// Speed is of the image's data over the job's own duration: what a password takes is
// the same for all. Processor time is that of all processes of the command, split by
// what the ledger says of each worker; the rest is the conductor with its NATS server.
//
// The fastest of many points is partly the luckiest. So it is run again beside the
// defaults, in turn, and that second race is what is reported. Only points with the
// default codec take part: one that stores more is not a better setting.
package sweep
