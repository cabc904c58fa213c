package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault/store"
)

// Claims settles who has the guests that a job has just claimed with its
// JobStarted. The claim at the lower position has the guest, so two jobs that
// start together never wait for each other.
type Claims struct {
	Job     id.Job
	Store   store.Store
	Ledger  *ledger.Ledger
	Catalog *catalog.State // is caught up with the ledger
	Guard   *ledger.Guard  // of the job
	Times   Times
	// Died reports that the process of another job is known to be gone; nil or
	// false: not known.
	Died func(*catalog.Job) bool
	// Waiting, if not nil, is told of a job that has to be watched for a while.
	Waiting func(*catalog.Job)

	watches map[id.Job]*Watch
}

// Busy is a guest that another job has, which lives.
type Busy struct {
	Guest  id.Guest
	Holder *catalog.Job
}

// errOver: the job to be fenced is over already.
var errOver = errors.New("over already")

// Settle returns when every guest is this job's, or another's that lives. Jobs
// found dead are fenced first. It takes about as long as a heartbeat when somebody
// holds a guest, and Times.Silence more when that one has died.
//
// A crash leaves this job's claim, which ends as any other does when its
// heartbeats stop, and fences that stand: a job once declared dead stays so.
func (c *Claims) Settle(ctx context.Context, guests []id.Guest) (busy []Busy, err error) {
	c.watches = map[id.Job]*Watch{}
	tick := time.NewTicker(c.Times.Or().Look)
	defer tick.Stop()
	free := slices.Clone(guests)
	for {
		if err := c.Catalog.CatchUp(c.Ledger.Records(ctx, c.Catalog.Next)); err != nil {
			return nil, fmt.Errorf("see who has the guests: %w", err)
		}
		holders := c.holders(free)
		if len(holders) == 0 {
			return busy, nil
		}
		changed := false
		for _, h := range holders {
			v, err := c.look(ctx, h)
			switch {
			case err != nil:
				return nil, err
			case v == Alive:
				for _, g := range h.Started.Guests {
					if at := slices.Index(free, g); at >= 0 {
						free = slices.Delete(free, at, at+1)
						busy = append(busy, Busy{g, h})
					}
				}
				changed = true
			case v == Dead:
				if err := c.fence(ctx, h, free); err != nil {
					return nil, err
				}
				changed = true
			}
		}
		if changed {
			continue // the others are looked at again before anyone waits
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// holders are the open jobs before this one that claim any of the guests, in
// the order in which they began.
func (c *Claims) holders(guests []id.Guest) (out []*catalog.Job) {
	me := c.Catalog.Jobs[c.Job]
	for _, j := range c.Catalog.JobList() {
		if me != nil && j.Position < me.Position && j.Open() &&
			slices.ContainsFunc(j.Started.Guests, func(g id.Guest) bool { return slices.Contains(guests, g) }) {
			out = append(out, j)
		}
	}
	return out
}

func (c *Claims) look(ctx context.Context, h *catalog.Job) (Verdict, error) {
	if c.Died != nil && c.Died(h) {
		return Dead, nil
	}
	w := c.watches[h.ID]
	if w == nil {
		w = &Watch{Times: c.Times}
		c.watches[h.ID] = w
		if c.Waiting != nil {
			c.Waiting(h)
		}
	}
	n, err := Newest(ctx, c.Store, h.ID)
	if err != nil {
		return Undecided, err
	}
	return w.Look(time.Now(), n), nil
}

// fence declares a job dead. It is not, if its end is in the ledger by then.
//
// A crash before the append leaves the dead job's claim to the next one; after
// it, the claim is gone and the heartbeats are swept later.
func (c *Claims) fence(ctx context.Context, h *catalog.Job, free []id.Guest) error {
	f := events.JobFenced{Fenced: h.ID, Host: h.Started.Host, Why: "its process on this host is gone"}
	if w := c.watches[h.ID]; w != nil {
		n, silent := w.Last()
		f.Lease = n
		if silent >= c.Times.Or().Silence {
			f.Why = fmt.Sprintf("no heartbeat after number %d for %.0f s", n, silent.Seconds())
		}
	}
	for _, g := range h.Started.Guests {
		if slices.Contains(free, g) {
			f.Guests = append(f.Guests, g)
		}
	}
	over := *c.Guard // its own position: what it sees now is shown to the job's guard again
	over.Check = func(r events.Record) error {
		switch said := r.Fact.(type) {
		case events.JobFinished:
			if r.Job == h.ID {
				return errOver
			}
		case events.JobFenced:
			if said.Fenced == h.ID {
				return errOver
			}
		}
		return nil
	}
	over.Next = min(over.Next, h.Position)
	_, err := c.Ledger.AppendGuarded(ctx, c.Job, &over, []events.Fact{f}, nil, nil)
	if errors.Is(err, errOver) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take over from job %s: %w", h.ID, err)
	}
	_ = Remove(ctx, c.Store, h.ID)
	return nil
}
