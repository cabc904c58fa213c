package catalog

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog/sets"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// ErrOrder: a record comes before one that was folded already.
var ErrOrder = errors.New("records out of order")

// State is what the records folded so far add up to. The maps are for reading.
type State struct {
	Vault  events.VaultCreated
	Next   uint64 // position of the last record folded, plus one
	Keys   map[id.Key]events.KeyAdded
	Sets   sets.All // not removed ones
	Guests map[id.Guest]*Guest
	Points map[id.Point]*Point // forgotten ones too
	Jobs   map[id.Job]*Job
	Packs  map[PackKey]*Pack // retired ones too
	Runs   map[id.Job]*Run
	Pins   map[id.Job]Pin // by the job that reads
	// Withdrawn are the chunks that may not be referenced, by domain.
	Withdrawn map[WithdrawnChunk]uint64 // → position of the fact
	// Tables are the retired tables, by name, and Retired what is retired and not
	// known to be deleted; both → by position of the PacksRetired.
	Tables  map[id.Object]uint64
	Retired map[uint64]*Retirement
	Domains map[id.Domain]*Domain // that guests have for themselves; shredded ones too
}

// Guest is a machine as it was last seen.
type Guest struct {
	ID     id.Guest
	Name   string
	Driver string
	Source string
	Points []*Point // listed ones, in the order of the ledger
}

// Point is a recovery point and what has happened to it.
type Point struct {
	events.PointCommitted
	Job       id.Job
	Position  uint64
	Committed time.Time
	Forgotten uint64 // position of the fact, 0 while it is listed
	// Verified is the last check, with its time and position; zero if none.
	Verified   events.PointVerified
	VerifiedAt time.Time
	verified   uint64
	// Damaged is the position of the last check that found damage, 0 if there was none
	// or all of the point's data has been read since and is whole. A check that reads
	// less says nothing about what an earlier one has found.
	Damaged uint64
	// Kept is by whom and why the point is pinned; KeptSince the position of that
	// fact, 0 if it is not.
	Kept      events.PointPinned
	KeptSince uint64
	// committed are the disks as PointCommitted had them, if a chunk table was
	// replaced since; else nil.
	committed []events.PointDisk
}

// Job is a run of the program. Finished is nil while it runs, or after it died.
type Job struct {
	ID         id.Job
	Position   uint64 // of its first fact
	Started    events.JobStarted
	StartedAt  time.Time
	Finished   *events.JobFinished
	FinishedAt time.Time
	Fenced     bool
	LastSeen   time.Time // time of its last fact
	Points     []id.Point
	PackCount  uint64
	PackBytes  int64
}

// PackKey names a pack: they live in a folder per job.
type PackKey struct {
	Job  id.Job
	Pack id.Object
}

// Pack is a stored pack.
type Pack struct {
	PackKey
	events.PackStored
	Position uint64
	Retired  uint64 // position of the fact, 0 while it is in use
}

// Retirement is what one segment retired.
type Retirement struct {
	Position uint64
	Packs    []events.PackName
	Tables   []events.TableRef
	Bytes    int64
	After    events.Micros // not deleted before
}

// Run is a guest booted from a point. State is started, kept, finalized or
// discarded.
type Run struct {
	events.RunStarted
	State string
	Since time.Time
}

// Pin is a reader that must not lose what it reads.
type Pin struct {
	events.ReaderPinned
	Position uint64
}

// WithdrawnChunk is a chunk of a domain in one pack. A zero Chunk stands for
// all that are in the pack.
type WithdrawnChunk struct {
	PackKey
	Domain id.Domain
	Chunk  id.Chunk
}

// New returns the state before the first record.
func New() *State {
	return &State{
		Keys: map[id.Key]events.KeyAdded{}, Sets: sets.All{}, Guests: map[id.Guest]*Guest{},
		Points: map[id.Point]*Point{}, Jobs: map[id.Job]*Job{}, Packs: map[PackKey]*Pack{}, Runs: map[id.Job]*Run{},
		Pins: map[id.Job]Pin{}, Withdrawn: map[WithdrawnChunk]uint64{}, Tables: map[id.Object]uint64{}, Retired: map[uint64]*Retirement{},
		Domains: map[id.Domain]*Domain{},
	}
}

// Fold folds all records.
func Fold(records iter.Seq2[events.Record, error]) (*State, error) {
	s := New()
	for r, err := range records {
		if err == nil {
			err = s.Apply(r)
		}
		if err != nil {
			return nil, fmt.Errorf("fold: %w", err)
		}
	}
	return s, nil
}

// Apply folds one record. Records come in the order of the ledger, those of one
// position in their order there; one from before is ErrOrder.
func (s *State) Apply(r events.Record) error {
	if r.Position+1 < s.Next {
		return fmt.Errorf("%s at position %d after %d: %w", r.Kind, r.Position, s.Next-1, ErrOrder)
	}
	s.Next = r.Position + 1
	if j := s.Jobs[r.Job]; j != nil {
		j.LastSeen = r.Time
	}
	switch f := r.Fact.(type) {
	case events.VaultCreated:
		s.Vault = f
	case events.KeyAdded:
		s.Keys[f.Key] = f
	case events.KeyRemoved:
		delete(s.Keys, f.Key)
	case events.SetDefined, events.GuestsSelected:
		s.Sets.Apply(r)
	case events.GuestInspected:
		s.see(f.Guest, f.Name, f.Driver, f.Source)
	case events.PackStored:
		s.storePack(r, f)
	case events.PacksRetired, events.TableReplaced, events.ObjectsDeleted:
		s.applyPrune(r)
	case events.ChunkWithdrawn:
		s.withdraw(r, f)
	case events.JobStarted, events.JobFinished, events.JobFenced:
		s.applyJob(r)
	case events.PointCommitted, events.PointForgotten, events.PointVerified, events.PointPinned, events.PointUnpinned:
		s.applyPoint(r)
	case events.RunStarted, events.RunKept, events.RunFinalized, events.RunDiscarded, events.ReaderPinned:
		s.applyReader(r)
	case events.DomainKeyed, events.DomainShredded:
		s.applyDomain(r)
	}
	return nil
}

func (s *State) applyJob(r events.Record) {
	switch f := r.Fact.(type) {
	case events.JobStarted:
		if s.Jobs[r.Job] == nil {
			s.Jobs[r.Job] = &Job{ID: r.Job, Position: r.Position, Started: f, StartedAt: r.Time, LastSeen: r.Time}
		}
	case events.JobFinished:
		if j := s.Jobs[r.Job]; j != nil && j.Finished == nil {
			j.Finished, j.FinishedAt = &f, r.Time
		}
		delete(s.Pins, r.Job)
	case events.JobFenced:
		if j := s.Jobs[f.Fenced]; j != nil {
			j.Fenced = true
		}
	}
}

func (s *State) applyPoint(r events.Record) {
	switch f := r.Fact.(type) {
	case events.PointCommitted:
		if s.Points[f.Point] != nil { // a job that said it twice
			return
		}
		p := &Point{PointCommitted: f, Job: r.Job, Position: r.Position, Committed: r.Time}
		s.Points[f.Point] = p
		g := s.see(f.Guest, f.GuestName, f.Driver, f.Source)
		at, _ := slices.BinarySearchFunc(g.Points, p, byPosition)
		g.Points = slices.Insert(g.Points, at, p)
		if j := s.Jobs[r.Job]; j != nil {
			j.Points = append(j.Points, f.Point)
		}
	case events.PointForgotten:
		if p := s.Points[f.Point]; p != nil && p.Forgotten == 0 {
			p.Forgotten = r.Position
			g := s.Guests[p.Guest]
			g.Points = slices.DeleteFunc(g.Points, func(q *Point) bool { return q == p })
		}
	case events.PointVerified:
		if p := s.Points[f.Point]; p != nil {
			p.Verified, p.VerifiedAt, p.verified = f, r.Time, r.Position
			whole := f.Mode == "chunks" && (f.Percent == 0 || f.Percent >= 100) && f.Cause == ""
			if f.DamagedCount > 0 {
				p.Damaged = r.Position
			} else if whole {
				p.Damaged = 0
			}
		}
	case events.PointPinned:
		if p := s.Points[f.Point]; p != nil {
			p.Kept, p.KeptSince = f, r.Position
		}
	case events.PointUnpinned:
		if p := s.Points[f.Point]; p != nil {
			p.Kept, p.KeptSince = events.PointPinned{}, 0
		}
	}
}

func (s *State) applyReader(r events.Record) {
	switch f := r.Fact.(type) {
	case events.ReaderPinned:
		if delete(s.Pins, r.Job); !f.Released {
			s.Pins[r.Job] = Pin{f, r.Position}
		}
	case events.RunStarted:
		s.Runs[f.Run] = &Run{RunStarted: f, State: "started", Since: r.Time}
	case events.RunKept:
		s.setRun(f.Run, "kept", r.Time)
	case events.RunFinalized:
		s.setRun(f.Run, "finalized", r.Time)
	case events.RunDiscarded:
		s.setRun(f.Run, "discarded", r.Time)
	}
}

func (s *State) setRun(run id.Job, state string, at time.Time) {
	if known := s.Runs[run]; known != nil {
		known.State, known.Since = state, at
	}
}

func (s *State) see(g id.Guest, name, driver, source string) *Guest {
	known := s.Guests[g]
	if known == nil {
		known = &Guest{ID: g}
		s.Guests[g] = known
	}
	known.Name, known.Driver, known.Source = name, driver, source
	return known
}

func (s *State) storePack(r events.Record, f events.PackStored) {
	key := PackKey{r.Job, f.Pack}
	if s.Packs[key] != nil {
		return
	}
	s.Packs[key] = &Pack{PackKey: key, PackStored: f, Position: r.Position}
	if j := s.Jobs[r.Job]; j != nil {
		j.PackCount++
		j.PackBytes += f.Size
	}
}

func (s *State) withdraw(r events.Record, f events.ChunkWithdrawn) {
	w := WithdrawnChunk{PackKey: PackKey{f.Job, f.Pack}, Domain: f.Domain}
	if len(f.Chunks) == 0 {
		s.Withdrawn[w] = r.Position
	}
	for _, c := range f.Chunks {
		w.Chunk = c
		s.Withdrawn[w] = r.Position
	}
}

// byTime orders points by the instant they show, by the clock of the machine that
// made them, then by when they were committed. Only who asks for a time wants this:
// clocks are set back, and two machines have two; see byPosition.
func byTime(a, b *Point) int {
	return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Position, b.Position), bytes.Compare(a.Point[:], b.Point[:]))
}

// byPosition orders points as the ledger has them: the order in which they came to
// be, whatever the clocks said.
func byPosition(a, b *Point) int {
	return cmp.Or(cmp.Compare(a.Position, b.Position), bytes.Compare(a.Point[:], b.Point[:]))
}

// Listed returns the points that are not forgotten, in the order of the ledger.
func (s *State) Listed() []*Point {
	return slices.SortedFunc(func(yield func(*Point) bool) {
		for p := range maps.Values(s.Points) {
			if p.Forgotten == 0 && !yield(p) {
				return
			}
		}
	}, byPosition)
}

// JobList returns all jobs in the order in which they began.
func (s *State) JobList() []*Job {
	return slices.SortedFunc(maps.Values(s.Jobs), func(a, b *Job) int {
		return cmp.Or(cmp.Compare(a.Position, b.Position), bytes.Compare(a.ID[:], b.ID[:]))
	})
}

// GuestList returns all guests by name, then id.
func (s *State) GuestList() []*Guest {
	return slices.SortedFunc(maps.Values(s.Guests), func(a, b *Guest) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), bytes.Compare(a.ID[:], b.ID[:]))
	})
}

// Open reports whether the job has neither finished nor been fenced: it may
// still be running, and what it may reference must stay.
func (j *Job) Open() bool { return j.Finished == nil && !j.Fenced }
