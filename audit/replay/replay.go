// Package replay folds a ledger again, as far as somebody wants to look back, and holds
// the result against everything that claims to know it.
//
// Call [Run] with an opened vault. The [Result] is the state of the moment, and every
// [Difference]: a StateHashed fact that the fold does not confirm, a snapshot of the
// catalog in the vault or a copy of a point that says something else in some row, a copy
// of a segment on this machine that is not what the vault has.
//
// # Words
//
// A *moment* is a position: the state is that after all facts up to and with it. A time
// stands for the last position at which a fact had been written by then, by the clocks of
// those who wrote.
//
// # Guarantees
//
// The ledger is read from the vault, proven, and from nowhere else; copies are what is
// judged, never what is believed. Differences come in the order of the ledger. Facts of
// kinds that this version does not know, and hashes of a later version of the fold, are
// counted and change nothing. Nothing is written.
//
// Cost: the ledger is read twice; one hash of the state for each job, one snapshot in
// memory at a time.
package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/compare"
	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// ErrDiffers: something that claims to be what the facts add up to is not.
var ErrDiffers = fmt.Errorf("the ledger adds up to something else: %w", vault.ErrDamaged)

// ErrMoment: the ledger has no such moment.
var ErrMoment = errors.New("the ledger has no such moment")

// Options say up to where. With none of them it is the end of the ledger.
type Options struct {
	Position *uint64
	Time     time.Time
	Job      string // as an operator names it: up to its last fact
	// Copies is the folder in which this machine has copies of segments; empty: none.
	Copies string
	// Progress is told how many of how many segments have been read; may be nil.
	Progress func(done, total int64)
}

// Difference is something that does not agree with the fold.
type Difference struct {
	Position uint64 // of the fact, or the place in the ledger that the thing is of
	Object   string // what disagrees: a fact, an object of the vault, a file
	compare.Difference
	Err error // it cannot be read; then there is no row
}

func (d Difference) String() string {
	if d.Err != nil {
		return fmt.Sprintf("position %d: %s: %v", d.Position, d.Object, d.Err)
	}
	return fmt.Sprintf("position %d: %s: %s", d.Position, d.Object, d.Difference)
}

// Result is the state of the moment, and what was found on the way.
type Result struct {
	State       *catalog.State
	Job         id.Job    // that was asked for; zero: none
	Position    uint64    // the last that was folded
	Time        time.Time // of its last fact
	Facts       int
	Agreed      int             // StateHashed facts that the fold confirmed
	Passed      int             // of later versions of the fold
	Snapshots   int             // that agreed in every row
	Unfit       int             // snapshots that other versions wrote
	Copies      int             // of points and of segments that agreed
	Later       map[string]int  // facts of kinds that this version does not know
	Rollbacks   []events.Record // RollbackAccepted facts
	Differences []Difference    // at most 1,000
	More        int
}

// maxDifferences bounds what is held of a catalog that is all wrong.
const maxDifferences = 1000

// Err is nil if everything agrees.
func (r *Result) Err() error {
	if len(r.Differences) == 0 {
		return nil
	}
	return fmt.Errorf("%d differences, the first: %s: %w", len(r.Differences)+r.More, r.Differences[0], ErrDiffers)
}

func (r *Result) differ(d Difference) {
	if len(r.Differences) >= maxDifferences {
		r.More++
		return
	}
	r.Differences = append(r.Differences, d)
}

// said is a hash that a fact says the state has before a position.
type said struct {
	at   uint64 // of the fact
	fact events.StateHashed
}

// first is what the first reading finds out.
type first struct {
	hashes map[uint64][]said
	jobs   *catalog.State // of their begins alone
	last   map[id.Job]uint64
	until  uint64 // the moment, plus one
	moment bool   // one was found
}

// Run folds the ledger l of v, which was opened without a cache.
func Run(ctx context.Context, v *vault.Vault, l *ledger.Ledger, o Options) (*Result, error) {
	r := &Result{Later: map[string]int{}}
	f, err := look(ctx, l, o)
	if err != nil {
		return nil, err
	}
	if err := f.choose(l, o, r); err != nil {
		return nil, err
	}
	if err := r.fold(ctx, v, l, f, o); err != nil {
		return nil, err
	}
	if err := r.copies(ctx, v); err != nil {
		return nil, err
	}
	return r, r.segments(ctx, v, o.Copies)
}

// look reads the ledger for the first time.
func look(ctx context.Context, l *ledger.Ledger, o Options) (*first, error) {
	f := &first{hashes: map[uint64][]said{}, jobs: catalog.New(), last: map[id.Job]uint64{}}
	for rec, err := range l.Records(ctx, 0) {
		if err != nil {
			return nil, fmt.Errorf("replay: %w", err)
		}
		switch fact := rec.Fact.(type) {
		case events.StateHashed:
			f.hashes[fact.Before] = append(f.hashes[fact.Before], said{rec.Position, fact})
		case events.JobStarted:
			if err := f.jobs.Apply(rec); err != nil {
				return nil, fmt.Errorf("replay: %w", err)
			}
		}
		if f.jobs.Jobs[rec.Job] != nil {
			f.last[rec.Job] = rec.Position
		}
		if !o.Time.IsZero() && !rec.Time.After(o.Time) {
			f.until, f.moment = rec.Position+1, true
		}
	}
	return f, nil
}

// choose finds the moment.
func (f *first) choose(l *ledger.Ledger, o Options, r *Result) error {
	next, _, _ := l.Head()
	if o.Job != "" {
		j, err := f.jobs.Job(o.Job)
		if err != nil {
			return err
		}
		r.Job = j.ID
	}
	switch {
	case o.Position != nil && *o.Position >= next:
		return fmt.Errorf("position %d: the ledger ends at %d: %w", *o.Position, int64(next)-1, ErrMoment)
	case o.Position != nil:
		f.until = *o.Position + 1
	case !o.Time.IsZero() && !f.moment:
		return fmt.Errorf("%s: the first fact is younger: %w", o.Time.Format(time.RFC3339), ErrMoment)
	case !o.Time.IsZero():
	case o.Job != "":
		f.until = f.last[r.Job] + 1
	default:
		f.until = next
	}
	if o.Job != "" && f.jobs.Jobs[r.Job].Position >= f.until {
		return fmt.Errorf("job %s began at position %d, after the moment asked for: %w", r.Job, f.jobs.Jobs[r.Job].Position, ErrMoment)
	}
	return nil
}

// fold reads the ledger for the second time, and compares on the way.
func (r *Result) fold(ctx context.Context, v *vault.Vault, l *ledger.Ledger, f *first, o Options) error {
	places, err := saved.Places(ctx, v.Store)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	s := catalog.New()
	// reached compares with whoever speaks of the state before position s.Next.
	reached := func() error {
		for _, h := range f.hashes[s.Next] {
			r.hash(s, h, f.until)
		}
		delete(f.hashes, s.Next)
		for n, at := range places {
			if at.Seq != s.Next {
				continue
			}
			places = append(places[:n:n], places[n+1:]...)
			if err := r.snapshot(ctx, v, l, at, s); err != nil {
				return err
			}
			break
		}
		if o.Progress != nil {
			o.Progress(int64(s.Next), int64(f.until))
		}
		return nil
	}
	for rec, err := range l.Records(ctx, 0) {
		if err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		if rec.Position >= s.Next {
			if err := reached(); err != nil {
				return err
			}
		}
		if rec.Position >= f.until {
			break
		}
		if _, later := rec.Fact.(events.Unknown); later {
			r.Later[rec.Kind]++
		}
		if _, ok := rec.Fact.(events.RollbackAccepted); ok {
			r.Rollbacks = append(r.Rollbacks, rec)
		}
		if err := s.Apply(rec); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		r.Facts, r.Position, r.Time = r.Facts+1, rec.Position, rec.Time
	}
	if err := reached(); err != nil {
		return err
	}
	next, _, _ := l.Head()
	for before, all := range f.hashes {
		for _, h := range all {
			if before > next && h.at < f.until { // of a position that there is not
				r.hash(s, h, f.until)
			}
		}
	}
	for _, at := range places {
		if at.Seq > next {
			r.differ(Difference{Position: at.Seq, Object: saved.Name(at), Err: fmt.Errorf("the ledger ends at %d: %w", next, vault.ErrDamaged)})
		}
	}
	r.State = s
	return nil
}

// hash compares one StateHashed, unless it was written after the moment.
func (r *Result) hash(s *catalog.State, h said, until uint64) {
	switch {
	case h.at >= until:
	case h.fact.Version > catalog.Version:
		r.Passed++
	case h.fact.Version > 0 && s.HashOf(h.fact.Version) == h.fact.Hash && s.Next == h.fact.Before:
		r.Agreed++
	default:
		r.differ(Difference{Position: h.at, Object: "the fact StateHashed", Difference: compare.Difference{
			Row: fmt.Sprintf("the state before position %d", h.fact.Before), Field: "its hash", A: s.HashOf(h.fact.Version).String(), B: h.fact.Hash.String()}})
	}
}

// snapshot compares a snapshot of the catalog, row by row.
func (r *Result) snapshot(ctx context.Context, v *vault.Vault, l *ledger.Ledger, at ledger.Reached, s *catalog.State) error {
	there, fits, err := saved.Look(ctx, v, l, at)
	if errors.Is(err, store.ErrNotFound) {
		return nil // a newer one has come
	}
	if err != nil && !errors.Is(err, vault.ErrDamaged) {
		return fmt.Errorf("replay: %w", err)
	}
	n := len(r.Differences) + r.More
	if there != nil {
		for d := range compare.States(s, there) {
			r.differ(Difference{Position: at.Seq, Object: saved.Name(at), Difference: d})
		}
	}
	switch {
	case err != nil && n == len(r.Differences)+r.More:
		r.differ(Difference{Position: at.Seq, Object: saved.Name(at), Err: err})
	case !fits:
		r.Unfit++
	case n == len(r.Differences)+r.More:
		r.Snapshots++
	}
	return nil
}

// copies compares the copies of points with the points.
func (r *Result) copies(ctx context.Context, v *vault.Vault) error {
	for c, err := range saved.Copies(ctx, v) {
		if err != nil && !errors.Is(err, vault.ErrDamaged) {
			return fmt.Errorf("replay: %w", err)
		}
		if err != nil {
			r.differ(Difference{Position: r.Position, Object: c.Object, Err: err})
			continue
		}
		p := r.State.Points[c.Fact.Point]
		if p == nil {
			continue // of after the moment, or of a job that has just committed it
		}
		n := len(r.Differences) + r.More
		as := p.PointCommitted
		as.Disks = p.AsCommitted()
		for d := range compare.Values("point "+p.Point.String()+" of "+p.GuestName, as, c.Fact) {
			r.differ(Difference{Position: p.Position, Object: c.Object, Difference: d})
		}
		if n == len(r.Differences)+r.More {
			r.Copies++
		}
	}
	return nil
}

// segments compares this machine's copies of segments with what the vault has.
func (r *Result) segments(ctx context.Context, v *vault.Vault, folder string) error {
	if folder == "" {
		return nil
	}
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("replay: read copies: %w", err)
	}
	for _, e := range entries {
		seq, ok := ledger.SegmentNumber("ledger/" + e.Name())
		if !ok || strings.Contains(e.Name(), "-") || seq > r.Position {
			continue
		}
		file := filepath.Join(folder, e.Name())
		here, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("replay: read copies: %w", err)
		}
		there, err := store.ReadAll(ctx, v.Store, ledger.SegmentName(seq), int64(ledger.MaxSegment))
		if err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		if !bytes.Equal(here, there) {
			r.differ(Difference{Position: seq, Object: file, Err: fmt.Errorf("this machine's copy of %s is not what the vault has; it is never believed, and may be deleted: %w",
				ledger.SegmentName(seq), vault.ErrDamaged)})
			continue
		}
		r.Copies++
	}
	return nil
}
