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

// Watch looks after queues that are elsewhere until ctx ends. When the server has
// lost them it calls lost, makes them again, and the job goes on: what was in them
// is read once more. When the server stays away it calls gone, once.
func (q *Queue) Watch(ctx context.Context, work *flow.Work, lost func(), gone func(error)) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if q.Hub.Gone() {
			gone(fmt.Errorf("the NATS server at %s was away for %v", q.dial.URL, Patience))
			return
		}
		look, done := context.WithTimeout(ctx, 5*time.Second)
		if q.Hub.Lost(look) {
			// First the slots: a message that is sent from here on has one that
			// stays its own.
			lost()
			_ = q.Hub.MakeQueues(look, work, q.copies) // else the next look finds them lost, too
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
