// Package rundirect serves the disks of a point to a hypervisor, to be read and written,
// as long as a guest runs straight from its backup.
//
// It is a stage like the others in that it is a process of its own with only the keys it
// needs (PartMeta, PartData, PartIDs), which leaves when its control pipe closes; it is
// none of the flow of a job. conductor/runs starts it, watches it, and starts it again.
//
// Reads: from the overlay what the guest has written, else from memory the chunks that were
// fetched before (restore/live), else from the vault. Writes: into the overlay of the
// disk (blockdev/overlay), never into the vault. It notes in which order a guest reads
// its disks while it boots (trace.go), so that the next run of that guest has those bytes
// fetched before they are asked for.
//
// A crash at any step: what a guest was told is written is in the overlay, what it was told is
// flushed survives the power too. The hypervisor connects again to the process that
// takes over, and the guest has noticed a pause. A vault that goes away makes reads of what was never read
// before wait, then fail; writes, and reads of what was written, go on.
package rundirect
