// Package relay runs a job whose stages only forward: what the transport of a backup
// costs when nothing else is done.
//
// [Conduct] is the job. It starts a NATS server, makes queues and an arena, and
// starts the workers, with the product's own conductor packages, as many of each
// stage as a backup has by default. [Worker] is what such a process does. Messages
// are of the size they have in a backup: 60 pieces and the hashes of 1,024 blocks for
// each cell of 4 MiB. Slots are acquired, claimed, handed over and released as
// there, sealed ones held by the uploader until a pack would be full; bytes are
// neither read nor written. Nothing is stored.
//
// Every parcel goes through all seven stages. Those of a backup that hold nothing
// new take a shorter way, so that this is the most that forwarding costs. Start and
// end of the processes are in it.
package relay
