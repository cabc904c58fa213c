// Package flow carries parcels from stage to stage.
//
// A job runs as seven kinds of processes (its stages, see [Stages]). Between
// two of them travels a [Parcel]: one cell of a disk with what is known about it
// so far. The parcel itself is a small message on a JetStream work-queue; its
// bytes lie in the [arena.Arena], shared memory that every worker of the host maps,
// and the message only holds a [arena.Claim] on them.
//
// A stage is written against [Worker]: [Connect], then [Worker.Pump] with a
// function that turns one parcel into the next. Pump owns receiving, heartbeats,
// publishing and acknowledging; a stage never sees NATS.
//
// Guarantees. Delivery is at least once, in any order: a parcel may arrive
// again, late, or twice at the same time, and its identity (job, disk, number,
// pass) is all that tells. A parcel's slot is released only after its next
// holder's copy of the message is stored by the server; the message it came by
// is acknowledged only after that. A slot whose filler died is freed by the
// conductor once the process has been reaped, never because time ran out: a
// stopped process that wakes up would otherwise write into a stranger's bytes.
// A reader of a slot checks the slot's generation before and after it reads
// ([Delivery.Live]); a claim that is no longer live belongs to a parcel that
// somebody else has finished, and is dropped.
//
// What flow is not: truth. Losing all of NATS and the arena loses a job's time
// and nothing else; what counts is in the vault.
package flow
