package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Options of a run.
type Options struct {
	Seed    uint64
	Count   int // trials; 0 means the campaign's own number
	Only    int // do this trial alone and write nothing down; negative: all
	Work    string
	Program string
	Commit  string
	Machine string
	Now     func() time.Time
	Log     io.Writer
	// For stops the run, to be continued later, when so much time has passed; 0:
	// never.
	For time.Duration
}

// Run does the trials of a campaign that the journal does not know as done. The
// error is why it had to stop; trials that failed are in the report.
func Run(ctx context.Context, c Campaign, o Options) (Report, error) {
	if o.Count == 0 {
		o.Count = c.Count
	}
	j, err := openJournal(filepath.Join(o.Work, fmt.Sprintf("%s-%d-%s.jsonl", c.Name, o.Seed, o.Commit)))
	if err != nil {
		return Report{}, err
	}
	defer j.close()
	wanted := missing(j, o)
	if len(wanted) > 0 {
		if err := do(ctx, c, o, j, wanted); err != nil {
			return report(c, o, j), err
		}
	}
	return report(c, o, j), nil
}

// missing lists the trials to do.
func missing(j *journal, o Options) (wanted []int) {
	if o.Only >= 0 {
		return []int{o.Only}
	}
	for n := range o.Count {
		if _, done := j.done[n]; !done {
			wanted = append(wanted, n)
		}
	}
	return wanted
}

func do(ctx context.Context, c Campaign, o Options, j *journal, wanted []int) (err error) {
	dir, err := os.MkdirTemp(o.Work, c.Name+"-")
	if err != nil {
		return fmt.Errorf("make a work folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log := func(format string, args ...any) { fmt.Fprintf(o.Log, c.Name+": "+format+"\n", args...) }
	if done := o.Count - len(wanted); done > 0 && o.Only < 0 {
		log("%d of %d trials were done before", done, o.Count)
	}
	b, err := c.Open(ctx, Env{Dir: dir, Program: o.Program, Seed: o.Seed, Count: o.Count, Now: o.Now, Log: log})
	if err != nil {
		return fmt.Errorf("campaign %s: %w", c.Name, err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	start, told := o.Now(), o.Now()
	for k, n := range wanted {
		began := o.Now()
		out, failed := b.Trial(ctx, n, rng(o.Seed, n))
		if ctx.Err() != nil {
			return context.Cause(ctx) // a trial cut short says nothing
		}
		r := Result{Trial: n, Kinds: out.Kinds, Note: out.Note, Checks: out.Checks, Millis: o.Now().Sub(began).Milliseconds()}
		if failed != nil {
			r.Error = failed.Error()
			log("FAILED trial %d %v: %s: %v\n  repeat with: go run ./bench/campaign -run %s -seed %d -only %d", n, out.Kinds, out.Note, failed, c.Name, o.Seed, n)
		}
		if o.Only >= 0 {
			log("trial %d %v: %s", n, out.Kinds, out.Note)
			j.done[n] = r
			return nil
		}
		if err := j.add(r); err != nil {
			return err
		}
		if o.Now().Sub(told) > time.Minute {
			told = o.Now()
			log("%d of %d, %s", o.Count-len(wanted)+k+1, o.Count, o.Now().Sub(start).Round(time.Second))
		}
		if o.For > 0 && o.Now().Sub(start) > o.For && k+1 < len(wanted) {
			log("stopped after %s with %d trials to do; the same command goes on", o.For, len(wanted)-k-1)
			return ErrTime
		}
	}
	return nil
}

// ErrTime: the time of a run is over and trials are left to do.
var ErrTime = errors.New("time is over, trials are left")
