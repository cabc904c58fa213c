package rig

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/events"
)

// Gone waits until no process of a group is left but the one that is excused.
func Gone(ctx context.Context, group, excused int) error {
	end := time.Now().Add(10 * time.Second)
	for {
		left := Members(group)
		if len(left) == 0 || len(left) == 1 && left[0] == excused {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("processes %v outlive their job", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Once wants each fact that can be true only once to be told once.
func (o Opened) Once(ctx context.Context) error {
	var wrong []error
	seen := map[string]bool{}
	for f, err := range o.Ledger.Records(ctx, 0) {
		if err != nil {
			return err
		}
		for _, what := range once(f) {
			if seen[what] {
				wrong = append(wrong, fmt.Errorf("the ledger says twice: %s", what))
			}
			seen[what] = true
		}
	}
	return errors.Join(wrong...)
}

// once names what a fact says that no other may say.
func once(f events.Record) (all []string) {
	what := f.Job.String() + " " + f.Kind
	switch one := f.Fact.(type) {
	case events.PackStored:
		return []string{what + " " + one.Pack.String()}
	case events.StageStarted:
		return []string{fmt.Sprint(what, " ", one.Worker)}
	case events.StageStopped:
		return []string{fmt.Sprint(what, " ", one.Worker)}
	case events.PointForgotten:
		return []string{f.Kind + " " + one.Point.String()}
	case events.PacksRetired:
		for _, p := range one.Packs {
			all = append(all, f.Kind+" "+p.Pack.String())
		}
		return all
	case events.JobStarted, events.GuestInspected, events.SnapshotTaken, events.ChangesResolved, events.ChunksStored, events.ExtentsMapped,
		events.DiskSealed, events.PointCommitted, events.JobFinished, events.SnapshotReleased:
		return []string{what}
	}
	return nil
}
