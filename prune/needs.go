package prune

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// openJobs are the jobs other than self that may still commit something, but for
// those that prune.
func openJobs(s *catalog.State, self id.Job) (out []*catalog.Job) {
	for _, j := range s.Jobs {
		if j.ID != self && j.Open() && j.Started.Verb != Verb {
			out = append(out, j)
		}
	}
	return out
}

// mayHave: jobs of older programs do not say which guests they have.
func mayHave(j *catalog.Job, g id.Guest) bool {
	return len(j.Started.Guests) == 0 || slices.Contains(j.Started.Guests, g)
}

// Verb is what JobStarted says of a run that prunes.
const Verb = "prune"

// Split divides the points into those whose objects must stay and those that are
// forgotten, in the order of the ledger. A forgotten point counts with the first as
// long as a job may build upon it that began before it was forgotten: one that began
// later has read that before it looked for a parent.
func Split(s *catalog.State, self id.Job) (live, dead []*catalog.Point) {
	running := openJobs(s, self)
	for _, p := range s.Points {
		if p.Forgotten == 0 || len(builders(running, p)) > 0 {
			live = append(live, p)
		} else {
			dead = append(dead, p)
		}
	}
	byPosition := func(a, b *catalog.Point) int { return cmp.Compare(a.Position, b.Position) }
	slices.SortFunc(live, byPosition)
	slices.SortFunc(dead, byPosition)
	return live, dead
}

// builders are those of some running jobs that may build upon a forgotten point.
func builders(running []*catalog.Job, p *catalog.Point) []*catalog.Job {
	return slices.DeleteFunc(slices.Clone(running), func(j *catalog.Job) bool { return j.Position >= p.Forgotten || !mayHave(j, p.Guest) })
}

// chunkTables are the chunk tables that points name, each once, with the points.
func chunkTables(points []*catalog.Point) (refs []events.TableRef, by map[id.Object][]*catalog.Point) {
	by = map[id.Object][]*catalog.Point{}
	for _, p := range points {
		seen := map[id.Object]bool{}
		for _, d := range p.Disks {
			for _, t := range d.Chunks {
				if t.Name.IsZero() || seen[t.Name] {
					continue
				}
				seen[t.Name] = true
				if by[t.Name] == nil {
					refs = append(refs, t)
				}
				by[t.Name] = append(by[t.Name], p)
			}
		}
	}
	return refs, by
}

// open reads the index of a chunk table that is needed. What it says decides what
// is deleted, so nothing goes on without it.
func open(ctx context.Context, v *vault.Vault, t events.TableRef, by []*catalog.Point) (*table.ChunkTable, error) {
	c, err := table.OpenChunks(ctx, v, t)
	if err != nil {
		return nil, fmt.Errorf("which packs point %s of %s needs is not known: %w", id.Short(by[0].Point), by[0].GuestName, err)
	}
	return c, nil
}

// rows is what tables list, put in order of packs and places.
type rows struct {
	sorter  *spill.Sorter
	packs   []table.PackRef
	numbers map[table.PackRef]uint32
	record  []byte
}

// row is one listing of a chunk: where, and by whom.
type row struct {
	pack, offset, stored, who uint32
}

const (
	rowBytes   = 4 * 4
	rowsBudget = 16 << 20
)

func newRows(scratch *spill.Log) *rows {
	return &rows{sorter: spill.NewSorter(scratch, rowBytes, rowsBudget), numbers: map[table.PackRef]uint32{}}
}

// number gives packs numbers, from 0.
func (r *rows) number(p table.PackRef) uint32 {
	n, ok := r.numbers[p]
	if !ok {
		n = uint32(len(r.packs))
		r.numbers[p], r.packs = n, append(r.packs, p)
	}
	return n
}

// add takes the rows of a table that lie in packs which want says.
func (r *rows) add(ctx context.Context, t *table.ChunkTable, who uint32, want func(table.PackRef) bool) error {
	numbers, wanted, some := make([]uint32, len(t.Packs())), make([]bool, len(t.Packs())), false
	for i, p := range t.Packs() {
		if want(p) {
			numbers[i], wanted[i], some = r.number(p), true, true
		}
	}
	if !some {
		return nil
	}
	for c, err := range t.All(ctx) {
		if err != nil {
			return err
		}
		if !wanted[c.Pack] {
			continue
		}
		r.record = r.record[:0]
		for _, n := range [...]uint32{numbers[c.Pack], c.Offset, c.Stored, who} {
			r.record = binary.BigEndian.AppendUint32(r.record, n)
		}
		if err := r.sorter.Add(r.record); err != nil {
			return err
		}
	}
	return nil
}

// sorted yields all rows in order of pack, offset and who. It may be run again.
func (r *rows) sorted() iter.Seq2[row, error] {
	return func(yield func(row, error) bool) {
		for b, err := range r.sorter.Sorted() {
			if err != nil {
				yield(row{}, err)
				return
			}
			n := func(i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
			if !yield(row{n(0), n(1), n(2), n(3)}, nil) {
				return
			}
		}
	}
}
