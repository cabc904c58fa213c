package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault/store"
)

const (
	// LongRead is from how many bytes of disk on a reader says that it is there: an hour
	// at 20 MiB/s. What is retired stays a week for all others.
	LongRead = 64 << 30
	// pinned is how long a reader that never came back holds what it read.
	pinned = 7 * 24 * time.Hour
)

// Hold keeps what points need from being deleted while a long reading of so many
// bytes goes on, whatever is forgotten and pruned meanwhile. Where nothing can be
// written the reader relies on the time that retired objects stay. Look the points up
// again afterwards: what was said before the pin counts.
//
// A crash before release leaves a pin that ends by itself after a week.
func (a *App) Hold(ctx context.Context, o *Vault, purpose string, points []id.Point, size int64) (release func(), err error) {
	if size < LongRead {
		return func() {}, nil
	}
	job := id.NewJob()
	f := events.ReaderPinned{Purpose: purpose, Points: points, PID: os.Getpid(), Until: events.At(a.Now().Add(pinned))}
	f.Host, _ = os.Hostname()
	next, _, _ := o.Ledger.Head()
	_, err = a.Decide(ctx, o, job, &ledger.Guard{Next: next}, f)
	if errors.Is(err, store.ErrReadOnly) || errors.Is(err, store.ErrFull) {
		a.Note("millrace: %v; what is read is kept for at least a week after it is forgotten and pruned", err)
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pin what is read: %w", err)
	}
	return func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		f.Released = true
		next, _, _ := o.Ledger.Head()
		if _, err := a.Decide(late, o, job, &ledger.Guard{Next: next}, f); err != nil {
			a.Note("millrace: %v; the pin of this reader ends by itself", err)
		}
	}, nil
}

// runPinned is how long a run that nobody ended holds its point.
const runPinned = 365 * 24 * time.Hour

// PinRun keeps what a run reads from being deleted, or lets it go. Where nothing can be written
// the run relies on the time that retired objects stay.
func (a *App) PinRun(ctx context.Context, o *Vault, run id.Job, point id.Point, released bool) error {
	f := events.ReaderPinned{Purpose: "run", Points: []id.Point{point}, PID: os.Getpid(), Until: events.At(a.Now().Add(runPinned)), Released: released}
	f.Host, _ = os.Hostname()
	next, _, _ := o.Ledger.Head()
	_, err := a.Decide(ctx, o, run, &ledger.Guard{Next: next}, f)
	if errors.Is(err, store.ErrReadOnly) || errors.Is(err, store.ErrFull) {
		a.Note("millrace: %v; the run relies on what is read being kept for a week after it is forgotten and pruned", err)
		return nil
	}
	return err
}
