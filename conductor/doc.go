// Package conductor runs a job: it owns the NATS server, the arena and the
// workers, and says at the end what happened.
//
// Call [Backup]. It writes JobStarted to the ledger, which claims the guests, and
// waits until it is clear who has each (package lease): a guest that a live job has
// is left to it, a dead job is fenced. Then it starts an embedded nats-server with JetStream on loopback, makes the queues and the arena, and
// starts the workers: sinks first, so that nobody emits into nothing. Each worker
// is a process of its own with its own credential (which lets it talk to its
// neighbours and nobody else) and only the vault keys its stage needs, handed
// over through its standard input. While they run it watches: a worker that dies
// is waited for, its half-filled slots are freed, and another takes its place. In
// the end it stops sources first and writes StageStopped, JobFinished and
// StateHashed under a new checkpoint.
//
// Guarantees. What Backup reports as a point is committed and under a checkpoint.
// A worker outlives the conductor by the time it takes to notice that its
// standard input has ended. If the conductor is killed, everything of the job
// that was not committed is gone but for its packs, whose chunks the next job
// finds; the vault never holds a half point.
//
// Slots are freed only after the process that filled them has been waited for,
// never because a heartbeat is late: a process that was only stopped would go on
// writing.
//
// While it runs it also reads what other jobs write: what they have stored need
// not be stored again, and once another job has taken over it stops. A fenced job
// appends nothing but its own end: who was stopped for an hour and wakes up finds
// the fence before its facts, in the indexer and here.
//
// The package does no backup work itself and knows no hypervisor.
package conductor
