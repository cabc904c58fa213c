// Package pace holds the processes of a host to one rate together: all readers of a
// job to so many bytes a second, all uploaders to so many others.
//
// Call [Open] with the same path in each process, then [Pace.Wait] before (or after)
// each piece of work with its bytes. [Pace.Set] changes the rate for all of them while
// they run, from any process that may open the file; who waits sees it within a tenth
// of a second. A rate of 0 is no limit, and then Wait reads 28 bytes now and then.
//
// The file holds the rate and the moment at which all that was let through would have
// passed at that rate (its *due* time). Whoever wants bytes through takes the lock of
// the file; if due is more than a quarter of a second ahead of now it lets go and
// sleeps, else it moves due on by bytes/rate. Nobody queues: so due is never further
// ahead than [burst] and one [piece], however many wait, and what is further was
// written by another clock, or at another rate, and is cut down to that. Over any time
// no more passes than rate × time, and the burst, and what each process may gather
// before it asks ([gather]).
//
// Guarantees. No wait depends on another process: a lock that is not to be had within
// a second (its holder was stopped; the file system knows none) is gone without, and
// a file that cannot be read or written leaves each process with its own account. A
// process that is killed leaves a file that is whole, or a damaged one; damage means
// the rate given to Open, not no limit: who asked for one did so because something
// else needs the disk or the line, and a rate stops no job.
package pace
