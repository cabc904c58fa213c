package prune

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// Margin is how long retired objects stay for readers that cannot write to the
// vault, and so cannot say that they are there.
const Margin = 7 * 24 * time.Hour

// maxObjects bounds what one segment retires.
const maxObjects = 4096

// Work is one run that prunes. Its job has begun, and its heartbeats with it.
type Work struct {
	Vault  *vault.Vault
	Ledger *ledger.Ledger
	Job    id.Job
	Margin time.Duration // for what this run retires
	Now    func() time.Time

	ids chunkIDs
}

// Retired is what Retire has done.
type Retired struct {
	Packs, Tables int
	Bytes         int64 // that deleting them gives back
	Moved         int   // sparse packs, of Packs
	MovedBytes    int64 // what was needed of them and lies elsewhere now
	Written       int64 // bytes of the packs and tables that were written for it
	// Passed says which sparse packs stay, because what is needed of them is damaged or
	// missing.
	Passed []error
}

// Retire retires what a plan lists, in segments that name every object in their
// clear header: first what nobody needs, then what can be moved. ErrStale: the plan
// does not hold any more, for a point that needs something of it or another run of
// prune was faster; what was done until then stands. ErrNotMoved: only moving has
// failed; all else of the plan is retired.
//
// A crash before a segment leaves what it retires in use, and new packs and tables
// that nobody names; after it, retired objects that the next run deletes.
func (w *Work) Retire(ctx context.Context, p *Plan) (out Retired, err error) {
	guard := w.guard(ctx, p)
	packs, tables := p.Packs, p.Tables
	for len(packs)+len(tables) > 0 {
		var f events.PacksRetired
		n := min(len(packs), maxObjects)
		f.Packs, packs = packs[:n], packs[n:]
		m := min(len(tables), maxObjects-n)
		f.Tables, tables = tables[:m], tables[m:]
		f.Why = "no point needs them"
		if err := w.append(ctx, guard, f, nil, nil); err != nil {
			return out, err
		}
		out.count(f)
	}
	if len(p.Sparse) == 0 {
		return out, nil
	}
	m, err := w.move(ctx, p)
	out.Passed = m.passed
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrNotMoved, err)
	}
	if len(m.gone.Packs) > 0 {
		if err := w.append(ctx, guard, m.gone, m.facts, m.in); err != nil {
			return out, err
		}
		out.count(m.gone)
		out.Moved, out.MovedBytes, out.Written = len(m.gone.Packs), m.bytes, m.written
		out.Bytes -= m.written
	}
	return out, nil
}

func (r *Retired) count(f events.PacksRetired) {
	r.Packs, r.Tables, r.Bytes = r.Packs+len(f.Packs), r.Tables+len(f.Tables), r.Bytes+bytesOf(f)
}

func bytesOf(f events.PacksRetired) (n int64) {
	for _, p := range f.Packs {
		n += p.Size
	}
	for _, t := range f.Tables {
		n += t.Size
	}
	return n
}

// append makes one segment that brings in what facts name and retires f.
func (w *Work) append(ctx context.Context, g *ledger.Guard, f events.PacksRetired, facts []events.Fact, in []ledger.ObjectRef) error {
	f.Bytes, f.After = bytesOf(f), events.At(w.Now().Add(w.Margin))
	var out []ledger.ObjectRef
	for _, p := range f.Packs { // packs and tables are named by their sums
		out = append(out, ledger.ObjectRef{Name: vault.PackName(p.Job, p.Pack), Sum: events.Hash(p.Pack), Size: p.Size})
	}
	for _, t := range f.Tables {
		out = append(out, ledger.ObjectRef{Name: table.ObjectName(t), Sum: events.Hash(t.Name), Size: t.Size})
	}
	_, err := w.Ledger.AppendGuarded(ctx, w.Job, g, append(facts, f), in, out)
	return err
}

// guard keeps a retirement from standing behind anything that the plan does not
// know of and that needs what it retires.
func (w *Work) guard(ctx context.Context, p *Plan) *ledger.Guard {
	packs, tables := map[table.PackRef]bool{}, map[id.Object]bool{}
	for _, k := range p.Packs {
		packs[table.PackRef{Job: k.Job, Name: k.Pack}] = true
	}
	for _, t := range p.Tables {
		tables[t.Name] = true
	}
	for _, s := range p.Sparse {
		packs[table.PackRef{Job: s.Pack.Job, Name: s.Pack.Pack}] = true
		for _, t := range s.Tables {
			tables[t.Name] = true
		}
	}
	return &ledger.Guard{Job: w.Job, Next: p.Position, Check: func(r events.Record) error {
		switch f := r.Fact.(type) {
		case events.PointCommitted:
			point := &catalog.Point{PointCommitted: f}
			for _, t := range point.Names() {
				if tables[t.Name] {
					return fmt.Errorf("point %s names table %s: %w", id.Short(f.Point), id.Short(t.Name), ErrStale)
				}
			}
			refs, _ := chunkTables([]*catalog.Point{point})
			for _, t := range refs {
				if p.tables[t.Name] {
					continue
				}
				c, err := table.OpenChunks(ctx, w.Vault, t)
				if err != nil {
					return fmt.Errorf("look at point %s: %w", id.Short(f.Point), err)
				}
				for _, k := range c.Packs() {
					if packs[k] {
						return fmt.Errorf("point %s needs pack %s: %w", id.Short(f.Point), id.Short(k.Name), ErrStale)
					}
				}
			}
		case events.JobStarted:
			// It may build upon a table that is to be replaced.
			if j := (&catalog.Job{Started: f}); r.Job != w.Job && f.Verb != Verb {
				for g := range p.guests {
					if mayHave(j, g) {
						return fmt.Errorf("job %s has begun: %w", r.Job, ErrStale)
					}
				}
			}
		case events.PacksRetired, events.TableReplaced:
			if r.Job != w.Job {
				return fmt.Errorf("job %s prunes too: %w", r.Job, ErrStale)
			}
		}
		return nil
	}}
}
