// Package courier carries letters between a worker and the queues of its job, over
// NATS JetStream. It knows nothing of what is in them.
//
// [Connect] reaches a server as [Dial] says; [Join] opens one queue on that
// connection. [Courier.Receive] then runs for as long as letters are wanted and
// hands each to a function; every [Letter] is held, and said to be held at each
// [Courier.Beat], until it is settled by exactly one of its methods Done, Again,
// Later and Refuse. [Courier.Post] stores a letter in a queue and waits for the
// server's word; [Courier.PostAsync] waits later. [Courier.Say] tells something
// that nobody stores.
//
// Guarantees. Delivery is at least once: a letter whose holder stops beating goes
// to another after the queue's ack wait. Never more letters are asked for than
// there are places for, so what a dead worker takes with it is bounded, in number
// and, since a server bounds the size of a message, in bytes. A queue that is full
// is waited for; a server that is away is waited for as long as Dial.Patience.
package courier
