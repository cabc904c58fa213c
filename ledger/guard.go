package ledger

import (
	"context"
	"fmt"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// Guard shows a job what others wrote before its own facts stand, and keeps them
// from standing once another job has taken over. It is for one goroutine at a time.
type Guard struct {
	Job id.Job
	// Next is the first position that has not been shown; set it to where the
	// writer's interest begins. It moves on as segments are shown.
	Next uint64
	// Check, if not nil, is given every record from Next on, the job's own
	// included, in order. Its error keeps the facts from being appended; the
	// segment of that record is then shown again the next time. It must not
	// call the ledger.
	Check func(events.Record) error
}

// Show gives the guard what it has not seen yet, up to where the ledger ends now.
func (l *Ledger) Show(ctx context.Context, g *Guard) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.vault == nil {
		return fmt.Errorf("show: opened without the password: %w", vault.ErrNoPart)
	}
	if err := l.refresh(ctx); err != nil {
		return err
	}
	return l.show(ctx, g)
}

func (g *Guard) check(r events.Record) error {
	if f, ok := r.Fact.(events.JobFenced); ok && f.Fenced == g.Job {
		return fmt.Errorf("%w at position %d: job %s: %s", ErrFenced, r.Position, r.Job, f.Why)
	}
	if g.Check == nil {
		return nil
	}
	return g.Check(r)
}

// show gives the guard all it has not seen of the segments before l.seq. The
// caller holds mu.
func (l *Ledger) show(ctx context.Context, g *Guard) error {
	if g == nil {
		return nil
	}
	if err := l.reach(ctx, min(g.Next, l.seq)); err != nil {
		return err
	}
	for ; g.Next < l.seq; g.Next++ {
		s, err := l.proven(ctx, g.Next)
		if err != nil {
			return err
		}
		records, err := s.open(ctx, l.vault)
		if err != nil {
			return fmt.Errorf("read %s: %w", segmentName(g.Next), err)
		}
		for _, r := range records {
			if err := g.check(r); err != nil {
				return err
			}
		}
	}
	return nil
}
