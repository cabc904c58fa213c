package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/bydomain"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/heal"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

const (
	maxWithdrawn  = 4096 // packs that one segment withdraws something of
	maxConcluding = 5    // tries to be the last who has said something
)

// heal has points that were found damaged before read what was stored again since, so
// that a backup which was killed before it did that leaves nothing for ever. What goes
// wrong shows when the points are read.
func (c *run) heal(ctx context.Context) {
	s, err := c.v.Now(ctx)
	if err != nil || !heal.Needed(s) {
		return
	}
	for _, d := range bydomain.Damaged(c.v, s) {
		started, finished := c.frame("heal", 0)
		w := heal.Work{Vault: c.v.Vault, Ledger: c.v.Ledger, Job: id.NewJob(), Domain: d, Before: []events.Fact{started}, After: []events.Fact{finished}}
		done, err := known.Heal(ctx, w, s, bydomain.Index(c.v, d))
		if err != nil {
			c.Note("millrace: heal damaged points: %v", err)
		} else if done.Chunks > 0 {
			c.Note("millrace: %d damaged chunks had been stored again; points read them there now", done.Chunks)
		}
	}
}

// frame is how a job of this run begins and ends, with so many points that are marked
// besides those which their own check has shown to be damaged.
func (c *run) frame(verb string, marks int) (events.JobStarted, events.JobFinished) {
	host, _ := os.Hostname()
	_, size, _ := c.v.Ledger.Head()
	s := events.JobStarted{Verb: verb, Host: host, PID: os.Getpid(), Version: c.version, OS: runtime.GOOS + "/" + runtime.GOARCH,
		CPUs: runtime.NumCPU(), By: session.User(), Size: size, Sources: c.names, Settings: map[string]string{"read-data": strconv.Itoa(c.percent)}}
	f := events.JobFinished{Outcome: "done", DurationNS: c.Now().Sub(c.began).Nanoseconds()}
	if len(c.bad)+marks > 0 {
		f.Cause = fmt.Sprintf("%d points and %d objects of the vault are damaged", len(c.bad)-c.objects+marks, c.objects)
	}
	return s, f
}

// marked is a point that needs what was withdrawn, which its own check has not shown.
type marked struct {
	events.PointVerified
	name string
	time events.Micros
	mine bool // it was checked by this run
}

// conclude writes down what was found. All that is said of points was true of the
// ledger as it is before the segment: if somebody has committed a point, withdrawn
// something, or moved or retired what is withdrawn here, it is worked out again.
//
// A crash before the segment leaves nothing; between the first and those that follow,
// where very many packs are damaged, points that are marked, and packs that the next
// run withdraws.
func (c *run) conclude(ctx context.Context) (where session.Recorded, err error) {
	job := id.NewJob()
	var marks []marked
	defer func() { c.printMarks(marks) }() // of the last try
	for n := 1; ; n++ {
		s, err := c.v.Now(ctx)
		if err != nil {
			return where, err
		}
		var facts []events.Fact
		if facts, marks, err = c.said(ctx, s); err != nil {
			return where, err
		}
		withdrawn := c.seen.Withdraw(s)
		for first := true; first || len(withdrawn) > 0; first = false {
			m := min(len(withdrawn), maxWithdrawn)
			part := withdrawn[:m:m]
			withdrawn = withdrawn[m:]
			if first {
				started, finished := c.frame("verify", len(marks))
				part = append(append([]events.Fact{started}, facts...), append(part, finished)...)
			}
			if where, err = c.Decide(ctx, c.v, job, c.guard(job, s), part...); err != nil {
				break
			}
		}
		switch {
		case errors.Is(err, heal.ErrStale) && n < maxConcluding:
			continue
		case errors.Is(err, store.ErrReadOnly), errors.Is(err, store.ErrFull):
			return c.Record(ctx, c.v, append(facts, c.seen.Withdraw(s)...)...) // in the outbox
		case err != nil:
			return where, err
		}
		_, err = c.Record(ctx, c.v) // what waits in the outbox
		return where, err
	}
}

// said are the facts about points: what was found of each, and which others need what
// is withdrawn now.
func (c *run) said(ctx context.Context, s *catalog.State) (facts []events.Fact, marks []marked, err error) {
	fresh, all := s.Bad(c.start), s.Bad(0)
	for k, chunks := range c.seen.Bad {
		for chunk := range chunks {
			fresh.Add(k, chunk)
			all.Add(k, chunk)
		}
	}
	mine := map[id.Point]events.PointVerified{}
	for _, f := range c.facts {
		mine[f.Point] = f
	}
	for _, p := range s.Listed() {
		f, asked := mine[p.Point]
		if asked && f.DamagedCount == 0 || !asked && p.Damaged == 0 {
			// What was read is right, whatever was said of it before this run.
			bad := fresh
			if asked && c.percent < 100 {
				bad = all
			}
			count, ranges, err := heal.Touched(ctx, c.v.Vault, p.PointCommitted, bad, maxDamageFacts)
			if err != nil && (!asked || !errors.Is(err, vault.ErrDamaged)) {
				if errors.Is(err, vault.ErrDamaged) || errors.Is(err, store.ErrNotFound) {
					continue // its tables are damaged: it is not known what it needs
				}
				return nil, nil, err
			}
			if count > 0 {
				if !asked {
					f = events.PointVerified{Point: p.Point, Guest: p.Guest, Mode: "withdrawn"}
				}
				f.DamagedCount, f.Damaged = count, ranges
				marks = append(marks, marked{f, p.GuestName, p.Time, asked})
			}
		}
		if asked || f.DamagedCount > 0 {
			facts = append(facts, f)
		}
	}
	return facts, marks, nil
}

// guard refuses what others say that this run does not know of and would have to.
func (c *run) guard(job id.Job, s *catalog.State) *ledger.Guard {
	return &ledger.Guard{Job: job, Next: s.Next, Check: func(r events.Record) error {
		touches := false
		switch f := r.Fact.(type) {
		case events.PointCommitted, events.TableReplaced:
			touches = len(c.seen.Bad) > 0
		case events.ChunkWithdrawn:
			touches = r.Job != job
		case events.PacksRetired:
			for _, p := range f.Packs {
				touches = touches || c.seen.Bad[catalog.PackKey{Job: p.Job, Pack: p.Pack}] != nil
			}
		}
		if touches {
			return fmt.Errorf("%s at position %d: %w", r.Kind, r.Position, heal.ErrStale)
		}
		return nil
	}}
}

// markJSON is a point that needs what was withdrawn, for scripts.
type markJSON struct {
	Type      string   `json:"type"`
	Point     id.Point `json:"point"`
	GuestName string   `json:"guest_name"`
	Chunks    uint64   `json:"damaged_count"`
	Cause     string   `json:"cause"`
}

// printMarks tells of points that their own check has not shown to be damaged.
func (c *run) printMarks(marks []marked) {
	for _, m := range marks {
		if m.mine {
			c.bad = append(c.bad, fmt.Errorf("point %s of %s: %d chunks: %s: %w", id.Short(m.Point), m.name, m.DamagedCount, heal.Cause, vault.ErrDamaged))
		}
		if c.Settings.JSON {
			c.PrintJSON(markJSON{"marked", m.Point, m.name, m.DamagedCount, heal.Cause})
		} else {
			fmt.Fprintf(c.Stdout, "%s  %s  %s: DAMAGED: it needs %d chunks that were found damaged and withdrawn\n", id.Short(m.Point), session.Plain(m.name),
				m.time.Time().Format(time.RFC3339), m.DamagedCount)
		}
	}
}
