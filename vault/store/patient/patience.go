package patient

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/vault/store"
)

// How long faults are waited for unless somebody says otherwise.
const (
	DefaultIO   = time.Minute
	DefaultGone = 5 * time.Minute
)

// Pauses between tries grow from the first to the last.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Patience is how to wait for a store. A nil Patience does not wait. It may be used
// from many goroutines, Tell and Probe then are too.
type Patience struct {
	// Probe asks the store once, without patience: nil says that it answers and is
	// the one it was. A store of another name in its place is store.ErrOther.
	Probe func(ctx context.Context) error
	IO    time.Duration         // bound of a wait for I/O errors; 0: DefaultIO
	Gone  time.Duration         // bound of a wait for a store that is away; 0: DefaultGone
	Tell  func(waitsFor string) // "": for nothing any more; may be nil
}

// Spell is one wait, from the first fault of an operation until it succeeds or is
// given up. It is for one goroutine.
type Spell struct {
	p     *Patience
	since time.Time // of the first fault; zero: none yet
	pause time.Duration
}

// Spell begins with nothing to wait for.
func (p *Patience) Spell() *Spell { return &Spell{p: p} }

// Done ends a spell whose operation has succeeded. The spell is as new.
func (s *Spell) Done() {
	if !s.since.IsZero() {
		s.tell("")
	}
	s.since, s.pause = time.Time{}, 0
}

func (s *Spell) tell(waitsFor string) {
	if s.p != nil && s.p.Tell != nil {
		s.p.Tell(waitsFor)
	}
}

// Wait waits after a failure until the store answers again; nil says that the
// operation is to be tried once more. The error is err if that does not pass, and
// else why the waiting ended: it took too long, another store came, ctx is over.
// A fault that comes again though the store answers counts as the same one.
func (s *Spell) Wait(ctx context.Context, err error) error {
	if s.p == nil || err == nil {
		return err
	}
	for {
		bound := s.bound(err)
		if bound == 0 {
			s.Done()
			return err
		}
		if s.since.IsZero() {
			s.since, s.pause = time.Now(), firstPause
		}
		waited := time.Since(s.since)
		if waited >= bound {
			s.Done()
			return fmt.Errorf("waited for %s: %w", waited.Round(time.Second/10), err)
		}
		s.tell(err.Error())
		t := time.NewTimer(min(s.pause, bound-waited))
		select {
		case <-ctx.Done():
			t.Stop()
			s.Done()
			return errors.Join(err, ctx.Err())
		case <-t.C:
		}
		s.pause = min(2*s.pause, lastPause)
		probed := s.p.Probe(ctx)
		if probed == nil {
			return nil
		}
		err = probed
	}
}

// bound is how long err may be waited for; 0: it does not pass.
func (s *Spell) bound(err error) time.Duration {
	or := func(d, standard time.Duration) time.Duration {
		if d == 0 {
			return standard
		}
		return d
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, store.ErrOther), errors.Is(err, store.ErrFull):
		return 0
	case errors.Is(err, store.ErrNoStore), isOneOf(err, away()):
		return or(s.p.Gone, DefaultGone)
	case isOneOf(err, failing()), errors.Is(err, store.ErrReadOnly) && !s.since.IsZero():
		return or(s.p.IO, DefaultIO)
	}
	return 0
}

// Passing reports whether an error is one that is waited for.
func Passing(err error) bool { return (&Patience{}).Spell().bound(err) > 0 }

// Failing reports whether an error says that the store is there and does not do its
// work: an I/O error, say, and not that it is away.
func Failing(err error) bool { return !isOneOf(err, away()) && isOneOf(err, failing()) }

func isOneOf(err error, list []syscall.Errno) bool {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return false
	}
	for _, x := range list {
		if no == x {
			return true
		}
	}
	return false
}

// Do makes op again and again until it succeeds or is not worth waiting for.
func (p *Patience) Do(ctx context.Context, op func() error) error {
	s := p.Spell()
	for {
		err := op()
		if err == nil {
			s.Done()
			return nil
		}
		if err := s.Wait(ctx, err); err != nil {
			return err
		}
	}
}
