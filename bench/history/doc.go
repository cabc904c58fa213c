// Package history makes vaults that look as if jobs had run into them for years,
// through the code that real jobs use and without their bytes.
//
// [Make] appends one job after the other to a ledger: its facts in the number of
// segments that a job makes, a small pack, the tables of the point, PointCommitted,
// and the two checkpoints. Guests take turns; a point changes a little of its
// guest's disk and has the layers that a real one would have. What lies on the disks
// is real: any point can be restored and compared with [Vault.Disk].
//
// [Memory] is a store in memory that counts what is asked of it, so that a test can
// say what an operation costs in objects and bytes whatever disk is below.
// [Memory.Dump] makes a folder of it.
//
// It is for tests and benchmarks. It is not a way to make backups, and what it says
// about deduplication or compression says nothing about disks.
package history
