package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/flow/hub"
	"github.com/millrace-backup/millrace/id"
)

// Patience is how long a server that is elsewhere may be away before the job ends.
const Patience = time.Minute

// Reach makes the job's streams on a server that is elsewhere. On a cluster of three
// or more they are kept three times.
func Reach(ctx context.Context, d courier.Dial, job id.Job, work *flow.Work) (*Queue, error) {
	d.Key, d.Patience = courier.NewKey(), Patience
	q := &Queue{job: job, dial: d}
	d.Name = "millrace " + job.String()
	var err error
	if q.Hub, err = hub.Join(d, nil, job, map[string]string{"millrace-vault": work.VaultID.String()}); err != nil {
		return nil, err
	}
	if need := int64(arena.SealedSize(int(work.ParcelSize))) + 512<<10; len(work.Inlines()) > 0 && q.Hub.MaxPayload() < need {
		q.Hub.Close()
		return nil, fmt.Errorf("use the NATS server at %s: it carries messages of %d bytes, parcels need %d: set max_payload to 8MB there", d.URL, q.Hub.MaxPayload(), need)
	}
	q.copies = 1
	if q.Hub.Servers() >= 3 {
		q.copies = 3
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err = q.Hub.MakeQueues(ctx, work, q.copies); err != nil {
		q.leave()
		return nil, fmt.Errorf("use the NATS server at %s (does it have JetStream?): %w", d.URL, err)
	}
	return q, nil
}

// Key is the key of the job's messages; nil on a server of the job's own.
func (q *Queue) Key() courier.Secret { return q.dial.Key }

// Elsewhere reports whether the server outlives the job.
func (q *Queue) Elsewhere() bool { return q.server == nil }

// Care is what a job wants of whoever looks after its queues.
type Care struct {
	// Held counts the parcels that lie in shared memory and have a message.
	Held func() int
	// Lost is called when what was in the queues has gone; why says what was found.
	// The parcels' places in shared memory are to be freed before anything is sent anew.
	Lost func(why string)
	// Mended is called when a queue has gone, and what was in it has not.
	Mended func()
	// Gone is called, once, when the server stays away.
	Gone func(error)
}

// patient is how many looks in a row find more parcels than messages before the
// messages count as lost: both are counted while they change.
const patient = 6

// Watch looks after queues that are elsewhere until ctx ends. What the server has lost
// is made again, and the job goes on: what was in it is read once more. That
// messages have gone from a queue that is there shows by parcels that nobody works on:
// a parcel in shared memory always has a message.
func (q *Queue) Watch(ctx context.Context, work *flow.Work, c Care) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for adrift := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if q.Hub.Gone() {
			c.Gone(fmt.Errorf("the NATS server at %s was away for %v", q.dial.URL, Patience))
			return
		}
		look, done := context.WithTimeout(ctx, 5*time.Second)
		held := c.Held()
		left, err := q.Hub.Look(look)
		if err == nil && left.Streams && uint64(held) > left.Messages {
			adrift++
		} else {
			adrift = 0
		}
		switch {
		case err != nil:
		case !left.Streams:
			// First the slots: a message that is sent from here on has one that
			// stays its own.
			c.Lost("its streams are gone")
			_ = q.Hub.MakeQueues(look, work, q.copies) // else the next look finds them lost, too
		case !left.Consumers:
			if q.Hub.MakeQueues(look, work, q.copies) == nil {
				c.Mended()
			}
		case adrift == patient:
			c.Lost("messages are gone")
			adrift = 0
		}
		done()
	}
}

func (q *Queue) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = q.Hub.RemoveQueues(ctx)
	q.Hub.Close()
}
