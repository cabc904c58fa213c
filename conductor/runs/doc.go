// Package runs keeps guests running straight from their backups.
//
// A run has a folder in the state directory: what it is ([Run], in run.json), the overlays of
// its disks, sockets, logs. [Create] makes one, [List] and [Find] find those there are,
// [Remove] takes one away with all that its guest has written.
//
// [Supervise] is the life of the process that owns a run: it starts the stage that serves the
// disks, with the keys through a pipe, and starts it again when it dies; it starts the guest
// when its disks are there, and lets it go on when it was paused for want of them. The guest's
// QEMU is nobody's child: it outlives the supervisor, and the next one finds it. [Running]
// says whether a run has a supervisor, [End] asks it to leave.
//
// A crash at any moment: run.json appears whole, after the overlays, or the folder has none
// and is not a run (it goes with the next Create). A supervisor that dies takes
// its stage with it; the guest waits for its disks, and then is paused, until somebody
// supervises the run again.
package runs
