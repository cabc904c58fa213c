// Package trial runs long series of numbered, seeded trials, so that a promise
// such as "no flipped bit goes unnoticed" rests on thousands of attempts and not on
// three examples.
//
// A [Campaign] says what a trial is; [Run] does the trials that have not been done
// yet and returns a [Report]; [Report.Append] adds its line to a page of results.
//
// Words. A *bench* is what the trials of a run share, made once: a vault, a built
// program. The *seed* of a run and the number of a trial decide all that is random
// in the trial, whatever was run before it, so that one trial can be repeated by
// itself. What a vault holds is random by nature (keys, nonces): a repeated trial
// hits the same kind of object at the same share of its length, not the same byte.
//
// What is guaranteed: a trial that has ended is in the journal, one line of JSON,
// before the next begins. A run that was stopped, however, goes on where it was if
// commit, seed and campaign are the same; a trial that failed is not tried again
// until it passes, it stays failed. A failure comes with the command that repeats it.
//
// The package knows nothing of backups. With no failure in N trials the rate of
// failures is below 3/N with 95 % confidence; that is all that a campaign says.
package trial

import (
	"context"
	"math/rand/v2"
	"time"
)

// Campaign is a series of trials of one kind.
type Campaign struct {
	Name  string // of its page of results and of -run
	About string // what a trial does and when it has passed, for the head of the page
	Count int    // trials of a full run
	// Open makes what the trials share.
	Open func(ctx context.Context, e Env) (Bench, error)
}

// Bench is what the trials of a run share.
type Bench interface {
	// Trial does trial n, with nothing random but what rng gives. The error is why
	// it failed.
	Trial(ctx context.Context, n int, rng *rand.Rand) (Outcome, error)
	Close() error
}

// Env is what a campaign gets to work with.
type Env struct {
	Dir     string // an empty folder, removed at the end
	Program string // the millrace binary
	Seed    uint64
	Count   int                              // trials that are wanted
	Now     func() time.Time                 // the clock
	Log     func(format string, args ...any) // for whoever watches
}

// Outcome is what a trial was, for counting.
type Outcome struct {
	Kinds []string // what it was about; each is counted
	Note  string   // what happened, in a sentence
	// Checks is how many states the trial looked at, where it is more than one.
	Checks int
}

// rng is the source of all that is random in a trial.
func rng(seed uint64, n int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(n)*0x9e3779b97f4a7c15+1))
}
