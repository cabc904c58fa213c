// Package audit tells from the ledger what happened.
//
// Call [Timeline] with the records of a ledger and the id of a job. The
// [Account] it returns is what the job's facts say of it: what was selected and
// why, which consistency was obtained, how each disk was read, how the workers
// of each stage spent their time and how they ended, what was stored, and how it
// went for each guest. [Account.WriteText] prints it for people,
// [Account.MarshalJSON] gives it to scripts.
//
// # Words
//
// A *worker* is one process of a stage. Its time is *busy*, *starved* (nothing
// came in) or *blocked* (no room for what goes out). A worker that died is
// followed by another with its own number and pid. The *bottleneck* is the stage
// whose workers were busy for the largest share of their time. A *finding* is a
// place where facts of one job contradict each other, above all bytes that do
// not add up. A job without its JobFinished is [Unfinished]: it still runs, or
// it died.
//
// # Guarantees
//
// An account is a pure function of the records: no clock, no file, nothing
// recomputed that a fact states. A fact that is there twice counts once. Facts of
// a later version are listed as they are and change nothing else. The time of a
// fact is when it entered the ledger; workers' facts enter in batches, up to ten
// seconds late. Names in an account came from guests and vaults and may hold
// anything; WriteText shows control characters as escapes.
//
// The package does not judge a job by today's settings, does not prove that the
// ledger is genuine (reading it through package ledger does) and keeps no state.
package audit
