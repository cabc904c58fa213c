// Package rows keeps, in files of a running job, what its parcels turned out to
// be: for each disk the ranges that differ from the parent, which come in any order
// of parcels and are read back in the order of the disk; and a digest for each
// parcel, by which two readings of it are compared.
//
// A [Disk] holds up to 96 KiB in memory, whatever the size of the disk; [Digests]
// hold none. The files are scratch (see package spill): a restarted process makes
// them again. What is read back is what was written, or spill.ErrDamaged.
package rows
