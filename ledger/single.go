package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger/merkle"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// What follows is for a reader that goes through a ledger object by object, damaged
// or not, and says of each what is wrong with it (package audit/proof). Everyone else
// reads through a [Ledger], which stops at the first object that is not as it was.

// MaxSegment is the length of the longest segment that is read, in bytes.
const MaxSegment = maxSegment

// Mark is a number of leaves and the root of the tree that has them.
type Mark struct {
	Size uint64
	Root events.Hash
}

// ReadSegment reads one segment and checks all that needs neither keys nor its
// neighbours: that it is segment seq of this vault, its form and bounds, its body's
// sum. What it says of the tree before it is proven by nothing here.
func ReadSegment(ctx context.Context, cfg vault.Config, st store.Store, seq uint64) (*Segment, error) {
	l := Ledger{cfg: cfg, st: st}
	return l.fetch(ctx, seq, func(*Segment) error { return nil })
}

// Before is the tree that the segment says it continues, After the one that it ends.
func (s *Segment) Before() Mark { return Mark{s.PrevSize, s.PrevRoot} }

// After is the tree with the segment's own leaves.
func (s *Segment) After() Mark {
	t := s.after()
	return Mark{t.Size, t.Root()}
}

// Length is the segment's length in bytes.
func (s *Segment) Length() int64 { return int64(len(s.clear) + len(s.body)) }

// Records opens the body. Who can open it knows that a holder of the keys wrote it,
// header and all.
func (s *Segment) Records(ctx context.Context, v *vault.Vault) ([]events.Record, error) {
	records, err := s.open(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", segmentName(s.Seq), err)
	}
	return records, nil
}

// SegmentName is the name of the object that is segment seq.
func SegmentName(seq uint64) string { return segmentName(seq) }

// SegmentNumber takes the name of a segment apart.
func SegmentNumber(name string) (seq uint64, ok bool) { return number(segmentFolder, name) }

// CheckpointName is the name of the checkpoint of so many leaves.
func CheckpointName(size uint64) string { return checkpointName(size) }

// CheckpointSize takes the name of a checkpoint apart.
func CheckpointSize(name string) (size uint64, ok bool) { return number(checkpointFolder, name) }

// ReadCheckpoint reads the checkpoint of so many leaves and checks its signature.
func ReadCheckpoint(ctx context.Context, cfg vault.Config, st store.Store, size uint64) (Checkpoint, error) {
	l := Ledger{cfg: cfg, st: st}
	return l.readCheckpoint(ctx, size)
}

// Mark is the tree that the checkpoint signs.
func (c Checkpoint) Mark() Mark { return Mark{c.Size, c.Root} }

// Compare holds the ledger against a checkpoint that somebody has seen: ErrRollback
// if the ledger ends before it, ErrForked if it does not continue it.
func (l *Ledger) Compare(ctx context.Context, seen Checkpoint) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.compare(ctx, seen)
}

// Refused reports whether an error is one of a vault that is not the continuation of
// what was seen: set back, or with another history.
func Refused(err error) bool { return errors.Is(err, ErrRollback) || errors.Is(err, ErrForked) }

// Empty is the tree before the first segment.
func Empty() Mark { return Mark{0, merkle.Tree{}.Root()} }
