// Package runs has the verbs of Run Direct: a guest that runs straight from a point.
//
// [Command] is run with start, list, resume and stop, and the hidden supervise, which they
// start as a process of its own. [Stage] is what that starts in turn: the process that
// serves the disks. conductor/runs has what a run is and how it is kept going,
// stages/rundirect how disks are served.
//
// Order of a start: the point is pinned in the ledger, the run with its overlays is made,
// RunStarted is recorded, the supervisor begins. A crash in between leaves a pin that a later
// stop of the run lifts, or, if there is no run yet, that ends by itself. Of a stop: the guest
// ends, the supervisor leaves, RunDiscarded is recorded and the pin lifted, what the guest wrote is
// deleted. A crash in between leaves a run that can be stopped again.
package runs
