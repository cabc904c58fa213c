package indexer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/ledger/table"
)

func TestFirstPointThenUnchanged(t *testing.T) {
	b := newLab(t)
	rnd := rand.New(rand.NewPCG(1, 0))
	images := [][]byte{randomImage(rnd, 9*labCell+1234), make([]byte, 3*labCell), randomImage(rnd, 5000)}
	j := b.begin(1, labCell, nil, images...)
	first := j.run()
	b.want(first, images...)
	kinds := map[string]int{}
	for _, f := range j.facts() {
		kinds[f.Kind()]++
		if e, ok := f.(events.ExtentsMapped); ok && !e.Base {
			t.Error("a first point's table is no base")
		}
	}
	if kinds["ExtentsMapped"] != 3 || kinds["ChunksStored"] != 1 || kinds["DiskSealed"] != 3 || kinds["PointCommitted"] != 1 || kinds["PackStored"] != len(j.x.packs) {
		t.Errorf("facts: %v", kinds)
	}

	again := b.begin(2, labCell, first, images...)
	second := again.run()
	b.want(second, images...)
	for _, f := range again.facts() {
		switch f := f.(type) {
		case events.ChunksStored, events.ExtentsMapped, events.PackStored:
			t.Errorf("an unchanged disk gave %T", f)
		case events.DiskSealed:
			if f.UnchangedBytes+f.ZeroBytes != f.Size || f.NewBytes != 0 || f.KnownBytes != 0 {
				t.Errorf("counters of an unchanged disk: %+v", f)
			}
		}
	}
	for n := range images {
		if !slices.Equal(second.Disks[n].Extents, first.Disks[n].Extents) || second.Disks[n].Root != first.Disks[n].Root {
			t.Errorf("disk %d has other layers, though nothing changed", n)
		}
	}
}

// TestDiskOfZeroBytes: a disk without a single parcel still has a point.
func TestDiskOfZeroBytes(t *testing.T) {
	b := newLab(t)
	point := b.begin(1, labCell, nil, nil).run()
	b.want(point, nil)
	b.want(b.begin(1, labCell, point, nil).run(), nil)
}

func TestHolesHideTheParentsData(t *testing.T) {
	b := newLab(t)
	image := make([]byte, 8*labCell+77)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(image)
	first := b.begin(1, labCell, nil, image).run()
	next := bytes.Clone(image)
	clear(next[2*labCell : 5*labCell])
	second := b.begin(2, labCell, first, next).run()
	b.want(second, next)
	if len(second.Disks[0].Extents) != 2 {
		t.Errorf("%d layers, want 2", len(second.Disks[0].Extents))
	}
	// One row is enough for all of a hole.
	if rows := second.Disks[0].Extents[0].Rows; rows != 1 {
		t.Errorf("%d rows for one hole", rows)
	}
	empty := make([]byte, len(image))
	b.want(b.begin(3, 4*labCell, second, empty).run(), empty)
}

func TestNineIncrementalsMakeANewBase(t *testing.T) {
	b := newLab(t)
	image := randomImage(rand.New(rand.NewPCG(3, 0)), 6*labCell+1)
	point := b.begin(0, labCell, nil, image).run()
	var layers []int
	for n := range 9 {
		image[n*4096]++
		point = b.begin(uint64(n), labCell, point, image).run()
		b.want(point, image)
		layers = append(layers, len(point.Disks[0].Extents))
	}
	if fmt.Sprint(layers) != "[2 3 4 5 6 7 8 1 2]" {
		t.Errorf("layers: %v", layers)
	}
	for n := range 6 {
		image[n*4096]--
		point = b.begin(uint64(n), labCell, point, image).run()
	}
	full := point.Disks[0]
	point = b.begin(99, labCell, point, image).run()
	if len(full.Extents) != table.MaxLayers || !slices.Equal(point.Disks[0].Extents, full.Extents) {
		t.Errorf("an unchanged disk of %d layers got %d, want the same", len(full.Extents), len(point.Disks[0].Extents))
	}
	b.want(point, image)
}

// TestShrunkAndGrown: what lay beyond the end of a disk that shrank is not there
// when it grows again.
func TestShrunkAndGrown(t *testing.T) {
	for _, parcel := range []int64{labCell, 4 * labCell} {
		b := newLab(t)
		image := randomImage(rand.New(rand.NewPCG(4, 0)), 10*labCell)
		point := b.begin(1, parcel, nil, image).run()
		for n, size := range []int{5*labCell + 100, 10 * labCell, 3 * labCell, 12*labCell + 1} {
			next := make([]byte, size)
			copy(next, image)
			image = next
			point = b.begin(uint64(n), parcel, point, image).run()
			b.want(point, image)
		}
	}
}

// TestPointsEqualTheDisk is the property: whatever was done to the disks between
// jobs, every point has the bytes of its instant, also after later jobs, and the
// counters add up.
func TestPointsEqualTheDisk(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			b := newLab(t)
			rnd := rand.New(rand.NewPCG(seed, 9))
			images := [][]byte{randomImage(rnd, 4*labCell+rnd.IntN(20*labCell)), randomImage(rnd, 1+rnd.IntN(3*labCell))}
			var point *events.PointCommitted
			type kept struct {
				point  *events.PointCommitted
				images [][]byte
			}
			var all []kept
			for n := range uint64(12) {
				for d := range images {
					images[d] = bytes.Clone(images[d])
					for range rnd.IntN(4) {
						edit(rnd, images[d])
					}
					if rnd.IntN(8) == 0 {
						images[d] = append(images[d], make([]byte, rnd.IntN(2*labCell))...)
					}
					if rnd.IntN(8) == 0 && len(images[d]) > labCell {
						images[d] = images[d][:len(images[d])-rnd.IntN(labCell)]
					}
				}
				j := b.begin(seed*100+n, labCell<<rnd.IntN(3), point, images...)
				j.sparse = rnd.IntN(4) > 0
				point = j.run()
				all = append(all, kept{point, slices.Clone(images)})
				checkCounters(t, j)
			}
			for _, k := range all {
				b.want(k.point, k.images...)
			}
		})
	}
}

func checkCounters(t *testing.T, j *job) {
	t.Helper()
	for _, f := range j.facts() {
		s, ok := f.(events.DiskSealed)
		if !ok {
			continue
		}
		if s.ZeroBytes+s.UnchangedBytes+s.KnownBytes+s.NewBytes != s.Size {
			t.Errorf("disk %d of %d bytes: zero %d + unchanged %d + known %d + new %d", s.Number, s.Size, s.ZeroBytes, s.UnchangedBytes, s.KnownBytes, s.NewBytes)
		}
	}
	for n, d := range j.x.progress().Disks {
		if d.Zero+d.Unchanged+d.Known+d.New != d.Size || d.Left != 0 {
			t.Errorf("progress of disk %d: %+v", n, d)
		}
	}
}

// TestTablesDoNotDependOnTheWay: the same disks, other orders, parcel sizes and
// duplicates: equal roots, for a base, an overlay and a merged base.
func TestTablesDoNotDependOnTheWay(t *testing.T) {
	b := newLab(t)
	rnd := rand.New(rand.NewPCG(6, 0))
	image := randomImage(rnd, 13*labCell+999)
	var states [][]byte
	for range 8 {
		states = append(states, bytes.Clone(image))
		for range 3 {
			edit(rnd, image)
		}
	}
	var want [][2]events.Hash
	for way := range uint64(4) {
		b.index = memIndex{} // each way stores for itself: known or new must not matter either
		if way == 3 {
			b.index = b.begin(0, labCell, nil, states...).indexed()
		}
		var point *events.PointCommitted
		for n, s := range states {
			j := b.begin(way*50+uint64(n), labCell<<(way%3), point, s)
			j.sparse = way%2 == 0
			point = j.run()
			root := [2]events.Hash{point.Disks[0].Root, point.Disks[0].Chunks[0].Root}
			if way == 0 {
				want = append(want, root)
			} else if root != want[n] {
				t.Errorf("way %d, state %d: roots differ", way, n)
			}
		}
	}
}

// indexed runs the job and returns what is known after it.
func (j *job) indexed() memIndex {
	j.run()
	return j.index
}

func TestPackThatIsGone(t *testing.T) {
	b := newLab(t)
	image := randomImage(rand.New(rand.NewPCG(7, 0)), 4*labCell)
	b.begin(1, labCell, nil, image).run()
	for e, err := range b.v.Store.List(t.Context(), "packs/") {
		must(t, err)
		must(t, b.v.Store.Delete(t.Context(), e.Name))
	}
	j := b.begin(2, labCell, nil, image) // no parent: all is known by the index
	_, numbers := j.planned(0)
	j.tell(j.plan())
	for _, n := range numbers {
		j.through([]*flow.Parcel{j.parcel(0, n)})
	}
	must(t, j.x.commit(t.Context(), 0))
	if g := j.x.guests[0]; g.fault != nil || !g.point.IsZero() || j.committed() {
		t.Errorf("a point was committed over a pack that is gone: %s, fault %+v", g.point, g.fault)
	}
	j.afresh()
	b.want(j.commit(), image)
}

// TestPackThatIsTooShort: its first chunks are there, the last one is not.
func TestPackThatIsTooShort(t *testing.T) {
	b := newLab(t)
	image := noisy(4, 4*labCell)
	b.begin(1, 4*labCell, nil, image).run()
	for e, err := range b.v.Store.List(t.Context(), "packs/") {
		must(t, err)
		must(t, b.v.Store.Delete(t.Context(), e.Name))
		must(t, b.v.Store.PutNew(t.Context(), e.Name, e.Size-1, bytes.NewReader(make([]byte, e.Size-1))))
	}
	j := b.begin(2, 4*labCell, nil, image)
	j.tell(j.plan())
	j.through([]*flow.Parcel{j.parcel(0, 0)})
	if n := j.x.disks[0].knownChunks; n < 2 {
		t.Fatalf("%d chunks are too few for this test", n)
	}
	must(t, j.x.commit(t.Context(), 0))
	if g := j.x.guests[0]; g.fault != nil || !g.point.IsZero() {
		t.Errorf("point %s, fault %+v", g.point, g.fault)
	}
	j.afresh()
	b.want(j.commit(), image)
}

// TestNothingNewNeedsADistrustedPack: whatever a chain of points looks like and
// whichever packs of theirs are lost, the next point is whole without them.
func TestNothingNewNeedsADistrustedPack(t *testing.T) {
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		b := newLab(t)
		image := randomImage(rnd, 6*labCell)
		var point *events.PointCommitted
		for n := range 1 + seed {
			if n > 0 {
				edit(rnd, image)
			}
			point = b.begin(seed<<8|n, labCell, point, image).run()
		}
		j := b.begin(seed<<8|99, labCell, point, image)
		lost := map[table.PackRef]bool{}
		m, err := table.OpenMap(t.Context(), b.v, point.Disks[0])
		must(t, err)
		for k := range m.Packs() {
			if _, met := lost[k]; !met {
				lost[k] = rnd.IntN(2) == 0
			}
			if lost[k] {
				j.x.distrusted[flow.PackID(k)] = true
			}
		}
		next := j.run()
		b.want(next, image)
		m, err = table.OpenMap(t.Context(), b.v, next.Disks[0])
		must(t, err)
		for p, err := range m.Range(t.Context(), 0, m.Size()) {
			must(t, err)
			if !p.Zero && lost[p.Pack] {
				t.Fatalf("seed %d: piece at %d needs a lost pack", seed, p.Offset)
			}
		}
	}
}

// TestKnownInADistrustedPack: the index knows the chunk, and it is read again.
func TestKnownInADistrustedPack(t *testing.T) {
	b := newLab(t)
	image := noisy(5, labCell)
	b.begin(1, labCell, nil, image).run()
	j := b.begin(2, labCell, nil, image)
	j.tell(j.plan())
	p := j.ready(0, 0)
	for _, at := range j.known {
		j.x.distrusted[flow.PackID{Job: at.Job, Name: at.Pack}] = true
	}
	j.tell(&flow.Message{Parcel: p})
	if ask := j.ask(); ask == nil || !ask.Fresh || p.Pieces[0].Verdict != flow.Known {
		t.Fatalf("asked %+v for a parcel of verdict %d", ask, p.Pieces[0].Verdict)
	}
}

// TestParentThatBecomesUnreadable ends the guest and not the job.
func TestParentThatBecomesUnreadable(t *testing.T) {
	b := newLab(t)
	image := noisy(6, 4*labCell)
	point := b.begin(1, labCell, nil, image).run()
	clear(image[:labCell])
	j := b.begin(2, labCell, point, image)
	j.tell(j.plan())
	for n := range uint32(3) {
		j.through([]*flow.Parcel{j.parcel(0, n+1)})
	}
	must(t, b.v.Store.Delete(t.Context(), table.ObjectName(point.Disks[0].Extents[0])))
	must(t, j.x.commit(t.Context(), 0))
	if f := j.x.guests[0].fault; f == nil || f.Class != flow.Park || !strings.Contains(f.Remedy, "--scan full") {
		t.Errorf("fault %+v", f)
	}
}

// TestFoundAgainAfterACrash: a process that dies behind the commit point is
// followed by one that finds the point in the ledger.
func TestFoundAgainAfterACrash(t *testing.T) {
	b := newLab(t)
	image := randomImage(rand.New(rand.NewPCG(8, 0)), 4*labCell)
	j := b.begin(1, 2*labCell, nil, image)
	path := j.x.journal.Path()
	point := j.run()
	next := j.indexer(path, j.x.w.Config)
	if !next.complete(0) || !next.guests[0].point.IsZero() {
		t.Fatal("the journal alone must give a complete guest without a point")
	}
	must(t, next.recall(t.Context()))
	if next.guests[0].point != point.Point || next.unrecorded != 0 || len(next.packs) != len(j.x.packs) {
		t.Errorf("point %s, want %s; %d packs unrecorded", next.guests[0].point, point.Point, next.unrecorded)
	}
	account := func(x *indexer) string {
		out := fmt.Sprint(x.progress().Disks, x.disks[0].here, x.disks[0].newChunks, x.disks[0].knownChunks)
		for p, err := range x.found(0, nil)(t.Context()) {
			out += fmt.Sprint(p, err)
		}
		return out
	}
	if account(next) != account(j.x) {
		t.Error("the successor's account of the disks differs")
	}
	// And if it had died before: the successor's commit gives the same tables.
	other := j.indexer(path, j.x.w.Config)
	must(t, other.commit(t.Context(), 0))
	for _, f := range j.facts() {
		if p, ok := f.(events.PointCommitted); ok && p.Disks[0].Root != point.Disks[0].Root {
			t.Error("another process made other tables of the same journal")
		}
	}
}
