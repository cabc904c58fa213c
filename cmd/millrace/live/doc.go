// Package live is the verbs that deal with a job while it runs on this machine: top
// shows it, tune changes how many workers its stages have.
//
// Both find the job by the socket in its folder in the state directory (package
// conductor/control); neither needs the vault or its password. What they print comes
// from one board.Report: [Top] as text that renews itself on a terminal, or as lines
// of JSON, [Tune] says what it changed. A job's own terminal display uses [Lines] too, so
// that the same figures look the same.
//
// Guarantee: looking at a job does not slow it down, and ending a look does not end
// the job.
package live
