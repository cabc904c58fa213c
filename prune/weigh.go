package prune

import (
	"context"
	"errors"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Weight is what would not be needed any more if points were forgotten, in bytes as
// they are stored: chunks, and tables.
type Weight struct {
	// Alone is of each point what none of the others of the vault needs; together
	// they are less than Total, which has what only several of them need.
	Alone map[id.Point]int64
	Total int64
}

// Weigh finds what only these points need. scratch is the path of a file to sort
// in. It changes nothing.
func Weigh(ctx context.Context, v *vault.Vault, s *catalog.State, forget []*catalog.Point, scratch string) (Weight, error) {
	w := Weight{Alone: map[id.Point]int64{}}
	log, err := spill.Create(scratch)
	if err != nil {
		return w, err
	}
	defer log.Close()
	live := slices.DeleteFunc(s.Listed(), func(p *catalog.Point) bool { return slices.Contains(forget, p) })
	needed := map[id.Object]bool{}
	for _, p := range live {
		for _, t := range p.Names() {
			needed[t.Name] = true
		}
	}
	// who is a set of points: those that name one table. 0 is the points that stay.
	sets := [][]*catalog.Point{nil}
	count := func(who []*catalog.Point, bytes int64) {
		w.Total += bytes
		if len(who) == 1 {
			w.Alone[who[0].Point] += bytes
		}
	}
	named := map[id.Object][]*catalog.Point{}
	sizes := map[id.Object]int64{}
	for _, p := range forget {
		w.Alone[p.Point] = 0
		for _, t := range p.Names() {
			if !needed[t.Name] {
				named[t.Name], sizes[t.Name] = append(named[t.Name], p), t.Size
			}
		}
	}
	for name, who := range named {
		count(who, sizes[name])
	}
	r := newRows(log)
	dead, by := chunkTables(forget)
	for _, t := range dead {
		if needed[t.Name] {
			continue
		}
		c, err := table.OpenChunks(ctx, v, t)
		if err == nil {
			sets = append(sets, by[t.Name])
			err = r.add(ctx, c, uint32(len(sets)-1), func(table.PackRef) bool { return true })
		}
		if err != nil && !unreadable(err) {
			return w, err
		}
	}
	mine := len(r.packs)
	stay, by := chunkTables(live)
	for _, t := range stay {
		c, err := open(ctx, v, t, by[t.Name])
		if err == nil {
			err = r.add(ctx, c, 0, func(p table.PackRef) bool { n, ok := r.numbers[p]; return ok && n < uint32(mine) })
		}
		if err != nil {
			return w, err
		}
	}
	return w, r.unneeded(sets, count)
}

// unneeded tells of every chunk that sets of points list and set 0 does not.
func (r *rows) unneeded(sets [][]*catalog.Point, count func([]*catalog.Point, int64)) error {
	var at row
	var who []*catalog.Point
	begun, free := false, false
	end := func() {
		if begun && free {
			count(who, int64(at.stored))
		}
	}
	for b, err := range r.sorted() {
		if err != nil {
			return err
		}
		if !begun || b.pack != at.pack || b.offset != at.offset {
			end()
			at, who, begun, free = b, nil, true, true
		}
		free = free && b.who != 0
		for _, p := range sets[b.who] {
			if !slices.Contains(who, p) {
				who = append(who, p)
			}
		}
	}
	end()
	return nil
}

// unreadable: a table that nobody needs may be damaged or gone. What it listed is
// found by Full.
func unreadable(err error) bool {
	return errors.Is(err, vault.ErrDamaged) || errors.Is(err, store.ErrNotFound)
}

// unneededTables are the tables that only dead points name and nobody has retired.
func unneededTables(s *catalog.State, live, dead []*catalog.Point) (out []events.TableRef) {
	needed := map[id.Object]bool{}
	for _, p := range live {
		for _, t := range p.Names() {
			needed[t.Name] = true
		}
	}
	for _, p := range dead {
		for _, t := range p.Names() {
			if !needed[t.Name] && s.Tables[t.Name] == 0 {
				needed[t.Name] = true
				out = append(out, t)
			}
		}
	}
	return out
}
