// Package hub is the conductor's end of a job's queues: it makes them, hears what
// workers say, and counts what waits.
//
// Call [Join] with a way to reach the server, then [Hub.MakeQueues] before any
// worker is started: a worker that comes to a queue that is not there waits a
// quarter of a second for it. [Hub.Listen] delivers reports from then on.
//
// The queues are in memory: losing them loses the job's time and nothing else.
// One work queue per job holds the messages of all stages, at most
// flow.MaxQueued for each: who sends more is told to wait. One durable consumer
// per stage is shared by its workers. A second stream is the live copy of the
// job's facts; see package live.
//
// A Hub may be used from many goroutines; reports are delivered one at a time
// per kind.
package hub
