package proof

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// contents reads, with the password, the tables of all listed points, and says which
// points need what was found to be wrong.
func (p *pass) contents(ctx context.Context) error {
	if p.o.Vault == nil {
		return nil
	}
	bad := map[string][]int{} // object → findings
	for n, f := range p.r.Findings {
		bad[f.Object] = append(bad[f.Object], n)
	}
	t := tables{p: p, bad: bad, packs: map[id.Object][]string{}}
	for _, point := range p.state.Listed() {
		for _, d := range point.Disks {
			for _, ref := range d.Extents {
				if err := t.extents(ctx, ref); err != nil {
					return err
				}
				t.need(point, table.ObjectName(ref))
			}
			for _, ref := range d.Chunks {
				if ref.Name.IsZero() {
					continue // nothing but zeros
				}
				if err := t.chunks(ctx, ref); err != nil {
					return err
				}
				t.need(point, table.ObjectName(ref))
				for _, pack := range t.packs[ref.Name] {
					t.need(point, pack)
				}
			}
		}
	}
	return nil
}

// tables are those that were read.
type tables struct {
	p     *pass
	bad   map[string][]int
	packs map[id.Object][]string // bad packs that a chunk table refers to; nil: read, none
}

// need notes that a point needs an object, if that is one that something is wrong with.
func (t *tables) need(point *catalog.Point, object string) {
	for _, n := range t.bad[object] {
		f := &t.p.r.Findings[n]
		one := Needed{point.Point, point.GuestName}
		if !slices.Contains(f.Points, one) {
			f.Points = append(f.Points, one)
		}
	}
}

// fault enters what is wrong with a table, unless that is known; other errors come back.
func (t *tables) fault(ref events.TableRef, err error) error {
	name := table.ObjectName(ref)
	switch {
	case err == nil || len(t.bad[name]) > 0:
		return nil // its bytes are known to be wrong
	case errors.Is(err, store.ErrNotFound):
		err = fmt.Errorf("no segment brought it in, and it is missing: %w: %w", vault.ErrDamaged, err)
	case !wrong(err):
		return err
	}
	t.p.found(Finding{Object: name, What: what(name), Job: ref.Job, Err: err})
	t.bad[name] = append(t.bad[name], len(t.p.r.Findings)-1)
	return nil
}

func rows[T any](all iter.Seq2[T, error]) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tables) extents(ctx context.Context, ref events.TableRef) error {
	if _, read := t.packs[ref.Name]; read {
		return nil
	}
	t.packs[ref.Name] = nil
	x, err := table.OpenExtents(ctx, t.p.o.Vault, ref)
	if err == nil {
		err = rows(x.Range(ctx, 0, table.MaxDisk))
	}
	return t.fault(ref, err)
}

func (t *tables) chunks(ctx context.Context, ref events.TableRef) error {
	if _, read := t.packs[ref.Name]; read {
		return nil
	}
	t.packs[ref.Name] = nil
	x, err := table.OpenChunks(ctx, t.p.o.Vault, ref)
	if err == nil {
		for _, pack := range x.Packs() {
			name := vault.PackName(pack.Job, pack.Name)
			if len(t.bad[name]) > 0 {
				t.packs[ref.Name] = append(t.packs[ref.Name], name)
			}
		}
		err = rows(x.All(ctx))
	}
	return t.fault(ref, err)
}

// Jobs lists the jobs that wrote what is wrong, in order of their ids.
func (r *Result) Jobs() []id.Job {
	jobs := map[id.Job]bool{}
	for _, f := range r.Findings {
		if !f.Job.IsZero() {
			jobs[f.Job] = true
		}
	}
	return slices.SortedFunc(maps.Keys(jobs), func(a, b id.Job) int { return slices.Compare(a[:], b[:]) })
}
