package heal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// ErrStale: somebody else has said something that what was to be said does not know
// of. Looking again helps.
var ErrStale = errors.New("the vault has changed meanwhile")

// maxPlaces bounds how many bad places one run replaces; the rest is for the next.
const maxPlaces = 1 << 20

// Index says where a chunk of a domain lies that may be referred to.
type Index interface {
	Find(c id.Chunk) (chunkindex.Place, bool)
}

// Work is one run that heals.
type Work struct {
	Vault  *vault.Vault
	Ledger *ledger.Ledger
	Job    id.Job
	Domain id.Domain // whose chunks are looked at
	Index  Index     // of it
	// Before and After are appended with what is healed, around it; nothing is if there
	// is nothing to heal.
	Before, After []events.Fact
}

// Replaced is what Replace has done.
type Replaced struct {
	Tables int // that were written once more
	Chunks int // places in them that are others now
	Left   int // that stay, because no copy is known or none is whole
	Bytes  int64
}

// Needed reports whether there is something that Replace could do.
func Needed(s *catalog.State) bool { return len(s.Withdrawn) > 0 && len(damaged(s)) > 0 }

// damaged are the listed points that were found damaged: whoever withdraws a place
// marks all that need it, so nothing else is to be looked at.
func damaged(s *catalog.State) (out []*catalog.Point) {
	for _, p := range s.Listed() {
		if p.Damaged != 0 {
			out = append(out, p)
		}
	}
	return out
}

// Replace has points that refer to withdrawn places read their copies instead, where
// the index knows one that is whole. s is the state of the ledger now. ErrStale: somebody
// was faster; nothing of it stands.
//
// A crash before the segment leaves tables that nobody names; after it, points that
// are healed.
func (w *Work) Replace(ctx context.Context, s *catalog.State) (out Replaced, err error) {
	r := replacer{Work: w, bad: s.Bad(0), to: map[place]table.ChunkRow{}, in: map[place]table.PackRef{}, ids: map[id.Domain]*chunk.IDs{}, uses: catalog.Bad{}}
	seen := map[id.Object]bool{}
	var facts []events.Fact
	var objects []ledger.ObjectRef
	for _, p := range damaged(s) {
		for _, ref := range p.Names() {
			if seen[ref.Name] || !isChunks(p, ref) {
				continue
			}
			seen[ref.Name] = true
			fresh, object, err := r.table(ctx, ref)
			if errors.Is(err, vault.ErrDamaged) {
				continue // verify says so; other tables can be helped
			}
			if err != nil {
				return out, fmt.Errorf("heal %s: %w", table.ObjectName(ref), err)
			}
			if !fresh.Name.IsZero() {
				facts = append(facts, events.TableReplaced{Old: ref, New: fresh, Why: "damaged chunks were stored again"})
				objects = append(objects, object)
				out.Bytes += fresh.Size
			}
		}
	}
	out.Tables, out.Chunks, out.Left = len(facts), r.done, r.left
	if len(facts) == 0 {
		return out, nil
	}
	_, err = w.Ledger.AppendGuarded(ctx, w.Job, r.guard(s.Next, seen), slices.Concat(w.Before, facts, w.After), objects, nil)
	return out, err
}

func isChunks(p *catalog.Point, ref events.TableRef) bool {
	for _, d := range p.Disks {
		for _, t := range d.Chunks {
			if t.Name == ref.Name {
				return true
			}
		}
	}
	return false
}

type replacer struct {
	*Work
	bad  catalog.Bad
	to   map[place]table.ChunkRow // where the copy lies; its Raw is 0 if there is none
	in   map[place]table.PackRef
	ids  map[id.Domain]*chunk.IDs
	uses catalog.Bad // the copies that new tables name

	done, left int
}

// table writes a table once more if copies of some of its chunks are known; else
// what it returns is zero.
func (r *replacer) table(ctx context.Context, old events.TableRef) (fresh events.TableRef, object ledger.ObjectRef, err error) {
	t, err := table.OpenChunks(ctx, r.Vault, old)
	if err != nil || !names(t, r.bad) || t.Domain() != r.Domain {
		return fresh, object, err
	}
	packs, some, err := r.packs(ctx, t)
	if err != nil || !some {
		return fresh, object, err
	}
	numbers := map[table.PackRef]uint32{}
	for n, p := range packs {
		numbers[p] = uint32(n)
	}
	rows := func(yield func(table.ChunkRow, error) bool) {
		for p, err := range r.rows(ctx, t) {
			p.row.Pack = numbers[p.pack]
			if !yield(p.row, err) || err != nil {
				return
			}
		}
	}
	fresh, object, err = table.WriteChunks(ctx, r.Vault, r.Job, t.Domain(), packs, rows)
	// The root is over what the rows say but for places: points stay what they were.
	if err == nil && (fresh.Root != old.Root || fresh.Rows != old.Rows) {
		err = fmt.Errorf("it has %d rows and root %s, not %d and %s: %w", fresh.Rows, fresh.Root, old.Rows, old.Root, vault.ErrDamaged)
	}
	return fresh, object, err
}

// packs are those that the new table names, in the order of their first use, and
// whether it differs from the old.
func (r *replacer) packs(ctx context.Context, t *table.ChunkTable) (packs []table.PackRef, some bool, err error) {
	seen := map[table.PackRef]bool{}
	for p, err := range r.rows(ctx, t) {
		if err != nil {
			return nil, false, err
		}
		some = some || p.moved
		if !seen[p.pack] {
			seen[p.pack] = true
			packs = append(packs, p.pack)
		}
	}
	return packs, some, nil
}

// placed is a row and the pack it lies in now.
type placed struct {
	row   table.ChunkRow
	pack  table.PackRef
	moved bool
}

// rows yields the rows of a table with copies in the place of what was withdrawn.
func (r *replacer) rows(ctx context.Context, t *table.ChunkTable) iter.Seq2[placed, error] {
	return func(yield func(placed, error) bool) {
		for row, err := range t.All(ctx) {
			if err != nil {
				yield(placed{}, err)
				return
			}
			p := placed{row: row, pack: t.Packs()[row.Pack]}
			if r.bad.Has(key(p.pack), row.Chunk) {
				if p, err = r.moved(ctx, t.Domain(), p); err != nil {
					yield(placed{}, err)
					return
				}
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// moved gives a row the place of a copy, if there is one. Each is looked for once.
func (r *replacer) moved(ctx context.Context, d id.Domain, p placed) (placed, error) {
	from := place{key(p.pack), p.row.Chunk}
	to, known := r.to[from]
	if !known && len(r.to) < maxPlaces {
		var err error
		if to, err = r.find(ctx, d, from, p.row.Raw); err != nil {
			return p, err
		}
		r.to[from] = to
		if to.Raw == 0 {
			r.left++
		} else {
			r.done++
		}
	}
	if to.Raw == 0 {
		return p, nil
	}
	p.row.Offset, p.row.Stored, p.pack, p.moved = to.Offset, to.Stored, r.in[from], true
	return p, nil
}

// find looks for a copy and proves it.
func (r *replacer) find(ctx context.Context, d id.Domain, from place, raw uint32) (none table.ChunkRow, err error) {
	at, ok := r.Index.Find(from.chunk)
	in := table.PackRef{Job: at.Job, Name: at.Pack}
	if !ok || at.Raw != raw || r.bad.Has(key(in), from.chunk) {
		return none, nil
	}
	if err := prove(ctx, r.Vault.Store, r.Vault.Keys, r.ids, spot{domain: d, chunk: from.chunk, pack: key(in), at: int64(at.Offset), stored: at.Stored, raw: at.Raw}); err != nil {
		if isDamage(err) {
			return none, nil // verify finds it too
		}
		return none, err
	}
	r.in[from] = in
	r.uses.Add(key(in), from.chunk)
	return table.ChunkRow{Offset: at.Offset, Stored: at.Stored, Raw: at.Raw}, nil
}

// guard refuses what was said behind next and takes away a copy, or replaces or
// retires a table that is to be replaced.
func (r *replacer) guard(next uint64, tables map[id.Object]bool) *ledger.Guard {
	stale := func(rec events.Record) error {
		return fmt.Errorf("%s at position %d: %w", rec.Kind, rec.Position, ErrStale)
	}
	return &ledger.Guard{Job: r.Job, Next: next, Check: func(rec events.Record) error {
		switch f := rec.Fact.(type) {
		case events.PacksRetired:
			for _, p := range f.Packs {
				if r.uses[catalog.PackKey{Job: p.Job, Pack: p.Pack}] != nil {
					return stale(rec)
				}
			}
			for _, t := range f.Tables {
				if tables[t.Name] {
					return stale(rec)
				}
			}
		case events.TableReplaced:
			if tables[f.Old.Name] {
				return stale(rec)
			}
		case events.ChunkWithdrawn:
			if r.uses[catalog.PackKey{Job: f.Job, Pack: f.Pack}] != nil {
				return stale(rec)
			}
		}
		return nil
	}}
}
