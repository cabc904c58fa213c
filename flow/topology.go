package flow

import (
	"slices"
	"time"
)

// The stages, as they are named on the command line, in subjects and in facts.
const (
	Snapshot = "snapshot"
	Reader   = "reader"
	Chunker  = "chunker"
	Delta    = "delta"
	Seal     = "seal"
	Uploader = "uploader"
	Indexer  = "indexer"
)

// Stages lists the stages in the order in which parcels pass them.
func Stages() []string {
	return []string{Snapshot, Reader, Chunker, Delta, Seal, Uploader, Indexer}
}

// hops says to whom a stage may send, apart from the indexer, to whom everyone
// may (delta skips seal and uploader when a parcel holds nothing new, and a
// parcel that cannot be done ends at the indexer as a fault).
var hops = map[string][]string{
	Snapshot: {Reader},
	Reader:   {Chunker},
	Chunker:  {Delta},
	Delta:    {Seal},
	Seal:     {Uploader},
	Uploader: {},
	Indexer:  {Snapshot},
}

// Targets returns the stages that stage may send messages to.
func Targets(stage string) []string {
	to := slices.Clone(hops[stage])
	if stage != Indexer {
		to = append(to, Indexer)
	}
	return to
}

// Queue settings of a job, the same for every stage. See the spike's figures in
// docs/adr for where they come from.
const (
	// AckWait is how long the server waits for a heartbeat before it gives a
	// message to another worker.
	AckWait = time.Second
	// Heartbeat is how often a worker says it still holds a message.
	Heartbeat = AckWait / 4
	// MaxAckPending bounds the messages held per stage; the uploader holds
	// every parcel of an unfinished pack.
	MaxAckPending = 128
	// MaxQueued bounds the messages waiting per stage: the plan of a huge disk
	// is sent as room appears.
	MaxQueued = 512
	// MaxMessage bounds a message's size in bytes.
	MaxMessage = 8 << 20
)
