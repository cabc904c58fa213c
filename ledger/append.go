package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Append adds facts as one segment and returns its position. Objects that the
// facts name are durable already; in lists those this segment brings into the
// vault, out those it retires, for everyone to see and to check.
//
// A crash before the put leaves nothing; after it, a whole segment that the
// next opener adopts, so facts may stand there whose writer never heard of it.
// Of a failed put it is not known which: Append looks, and only if the segment
// is not there returns the error.
func (l *Ledger) Append(ctx context.Context, job id.Job, facts []events.Fact, in, out []ObjectRef) (uint64, error) {
	return l.AppendGuarded(ctx, job, nil, facts, in, out)
}

// AppendGuarded is Append for a writer whose facts depend on what others say. All
// that stands before the new segment has been through g when it is put: a fact
// that got there first either refuses these facts or was known to their writer.
// There is no gap between looking and putting, because the put is for exactly the
// number after the last segment that was shown, and fails if that is taken.
func (l *Ledger) AppendGuarded(ctx context.Context, job id.Job, g *Guard, facts []events.Fact, in, out []ObjectRef) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.vault == nil {
		return 0, fmt.Errorf("append: opened without the password: %w", vault.ErrNoPart)
	}
	if len(facts) == 0 {
		return 0, errors.New("append: no facts: every position has some")
	}
	now := l.now()
	records := make([]events.Record, 0, len(facts))
	for _, f := range facts {
		records = append(records, events.NewRecord(now, job, f))
	}
	metaKey, err := l.vault.Keys.MetaKeyID()
	if err != nil {
		return 0, fmt.Errorf("append: %w", err)
	}
	h := Header{Vault: l.cfg.ID, Job: job, MetaKey: metaKey, Time: events.At(now), In: in, Out: out}
	for {
		err := l.secure(ctx)
		if err == nil && l.signed.Note == nil && l.seq > 0 {
			// The first segment is signed before there is a second, so a longer ledger
			// without a checkpoint has lost them. A crash in between leaves the first,
			// signed, and nothing else.
			_, err = l.sign(ctx)
		}
		if err == nil {
			err = l.show(ctx, g)
		}
		if err != nil {
			return 0, fmt.Errorf("append %s: %w", segmentName(l.seq), err)
		}
		h.Seq, h.PrevSize, h.PrevRoot, h.Edge = l.seq, l.head.Size, l.head.Root(), l.head.Edge
		mine, err := sealSegment(l.vault.Keys, h, records)
		if err != nil {
			return 0, fmt.Errorf("append %s: %w", segmentName(h.Seq), err)
		}
		won, err := l.put(ctx, mine)
		if err != nil {
			return 0, fmt.Errorf("append %s: %w", segmentName(h.Seq), err)
		}
		if won {
			return h.Seq, nil
		}
		l.lost++
	}
}

// put stores s as the next segment. It returns false when another writer was
// faster; that segment has been adopted then.
func (l *Ledger) put(ctx context.Context, s *Segment) (won bool, err error) {
	b := s.bytes()
	putErr := l.st.PutNew(ctx, segmentName(s.Seq), int64(len(b)), bytes.NewReader(b))
	if putErr == nil {
		l.take(s)
		l.unsure = nil
		l.keep(s.Seq, b)
		return true, nil
	}
	winner, err := l.adopt(ctx)
	if errors.Is(err, store.ErrNotFound) || err != nil && !errors.Is(putErr, store.ErrExists) {
		return false, putErr
	}
	if err != nil {
		return false, err
	}
	if errors.Is(putErr, store.ErrExists) {
		l.unsure = nil // so the store said: it is whole and durable
		return winner.leaf() == s.leaf(), nil
	}
	if winner.leaf() == s.leaf() { // it had arrived after all
		return true, l.secure(ctx)
	}
	return false, putErr
}

// secure makes the last segment durable, if another writer put it and it was only
// seen. What is seen may still be lost, with its writer, to a power cut; whoever
// builds upon it or signs it would then have made a ledger that cannot be opened.
// The segments before it its writer has secured in the same way.
func (l *Ledger) secure(ctx context.Context) error {
	if l.unsure == nil {
		return nil
	}
	b := l.unsure.bytes()
	err := l.st.PutNew(ctx, segmentName(l.unsure.Seq), int64(len(b)), bytes.NewReader(b))
	if err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("make %s durable: %w", segmentName(l.unsure.Seq), err)
	}
	l.unsure = nil
	return nil
}

// Checkpoint signs the ledger as far as it was read and returns the signed
// statement, which the caller remembers. Two writers may sign the same size.
//
// A crash before the put leaves segments without a checkpoint: valid, adopted
// by the next opener, but an attacker could cut them off unseen. After it, all
// is covered.
func (l *Ledger) Checkpoint(ctx context.Context) (Checkpoint, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.vault == nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: opened without the password: %w", vault.ErrNoPart)
	}
	return l.sign(ctx)
}

// sign is Checkpoint for whoever holds mu.
func (l *Ledger) sign(ctx context.Context) (Checkpoint, error) {
	if l.signed.Note != nil && l.signed.Size == l.head.Size {
		return l.signed, nil
	}
	if err := l.secure(ctx); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	earlier, err := l.earlier(ctx)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := signCheckpoint(l.vault, l.seq, l.head, earlier, l.now())
	if err != nil {
		return Checkpoint{}, err
	}
	name := checkpointName(c.Size)
	err = l.st.PutNew(ctx, name, int64(len(c.Note)), bytes.NewReader(c.Note))
	if errors.Is(err, store.ErrExists) {
		theirs, rerr := l.readCheckpoint(ctx, c.Size)
		if rerr != nil {
			return Checkpoint{}, rerr
		}
		if theirs.Root != c.Root || theirs.Seq != c.Seq {
			return Checkpoint{}, fmt.Errorf("%s has root %s, not %s: %w", name, theirs.Root, c.Root, ErrForked)
		}
		c, err = theirs, nil
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("put %s: %w", name, err)
	}
	l.signed, l.own = c, c.Size
	return c, nil
}

// earlier lists the checkpoints that the next one names, so that none can be taken away
// unseen once there is a later one: the newest this Ledger knew, and what others have put
// since. Those were only seen and are made durable: what is named has to stay.
func (l *Ledger) earlier(ctx context.Context) (sizes []uint64, err error) {
	known := l.signed.Size
	for e, err := range store.ListAfter(ctx, l.st, checkpointFolder, before(checkpointFolder, known)) {
		if err != nil {
			return nil, err
		}
		size, ok := number(checkpointFolder, e.Name)
		if !ok || size >= l.head.Size || len(sizes) == maxPrev {
			continue
		}
		c, err := l.readCheckpoint(ctx, size)
		if errors.Is(err, vault.ErrDamaged) || errors.Is(err, store.ErrNotFound) {
			continue // whoever verifies says so
		}
		if err == nil && size != l.own {
			if err = l.st.PutNew(ctx, e.Name, int64(len(c.Note)), bytes.NewReader(c.Note)); errors.Is(err, store.ErrExists) {
				err = nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("make %s durable: %w", e.Name, err)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}
