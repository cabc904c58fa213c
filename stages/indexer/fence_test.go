package indexer

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/asks"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
)

// say appends a fact of another job.
func (b *lab) say(f events.Fact) {
	b.Helper()
	_, err := b.l.Append(b.Context(), id.Job{99}, []events.Fact{f}, nil, nil)
	must(b, err)
}

// whole is a job with all its parcels here and nothing committed.
func (b *lab) whole(seed uint64, parent *events.PointCommitted, image []byte) *job {
	j := b.begin(seed, labCell, parent, image)
	j.tell(j.plan())
	_, numbers := j.planned(0)
	for _, n := range numbers {
		j.through([]*flow.Parcel{j.parcel(0, n)})
	}
	return j
}

// committed reports whether the ledger has a point of the job.
func (j *job) committed() bool {
	for _, f := range j.facts() {
		if p, ok := f.(events.PointCommitted); ok && p.Point == id.NewPoint(j.x.w.Config.Job, j.guest) {
			return true
		}
	}
	return false
}

// settle does commits, as the stage's loop does, until something has come of them.
func (j *job) settle() {
	j.Helper()
	g := &j.x.guests[0]
	for n := 0; n < 3 && g.fault == nil && j.x.complete(0) && g.point.IsZero(); n++ {
		must(j, j.x.commit(j.Context(), 0))
	}
}

// afresh does what snapshot and the other stages do when the indexer has asked for
// parcels to be stored again, and returns which these were.
func (j *job) afresh() []flow.RecheckEntry {
	j.Helper()
	ask := j.ask()
	if ask == nil || !ask.Fresh {
		j.Fatalf("asked %+v", ask)
	}
	list := ask.Reread
	for _, e := range list {
		if j.tell(&flow.Message{Parcel: j.decided(int(e.Disk), e.Number)}); j.x.disks[e.Disk].has(e.Number) {
			j.Errorf("%v was taken although it is known to be stale", e)
		}
		p := j.parcel(int(e.Disk), e.Number)
		p.Fresh = true
		j.through([]*flow.Parcel{p})
	}
	return list
}

// decided is a parcel as delta sends it that has nothing new in it.
func (j *job) decided(disk int, n uint32) *flow.Parcel {
	p := j.parcel(disk, n)
	for i := range p.Pieces {
		p.Pieces[i].Verdict = flow.Unchanged
	}
	return p
}

// A pack that the point needs and that is retired while the job runs, whoever
// stored it and however it is needed, costs that what it had is stored again.
func TestPackRetiredWhileTheJobRuns(t *testing.T) {
	for _, how := range []string{"known", "own", "of the parent", "withdrawn", "distrusted before"} {
		t.Run(how, func(t *testing.T) {
			b := newLab(t)
			image := noisy(6, 4*labCell)
			first := b.begin(1, labCell, nil, image)
			point := first.run()
			parent := point
			if how == "known" {
				parent = nil
			} else {
				copy(image[labCell:], noisy(7, labCell))
			}
			j := b.whole(2, parent, image)
			var pack id.Object
			owner := j
			if how != "own" {
				owner = first
			}
			for n := range owner.x.packs {
				if owner.x.packs[n].isNew {
					pack = owner.x.packs[n].Name
				}
			}
			gone := events.PackName{Job: owner.x.w.Config.Job, Pack: pack}
			if how == "withdrawn" {
				b.say(events.ChunkWithdrawn{Job: gone.Job, Pack: gone.Pack, Chunks: []id.Chunk{{1}}})
			} else {
				b.say(events.PacksRetired{Packs: []events.PackName{gone}})
			}
			if how == "distrusted before" { // the job was told when it began, and stored what it needs again
				j.x.distrusted[flow.PackID{Job: gone.Job, Name: gone.Pack}] = true
			}
			j.settle()
			f := j.x.guests[0].fault
			if how == "distrusted before" {
				if f != nil || !j.committed() {
					t.Errorf("fault %+v", f)
				}
				return
			}
			if f != nil || j.committed() || j.x.complete(0) {
				t.Fatalf("fault %+v, committed %v, complete %v", f, j.committed(), j.x.complete(0))
			}
			again := j.afresh()
			if how == "own" && len(again) == 4 {
				t.Error("all was stored again, though one pack had gone")
			}
			if !j.x.complete(0) || j.x.guests[0].confirmed || j.x.guests[0].asked {
				t.Error("not complete, or not to be asked again whether it held still")
			}
			p := j.commit()
			b.want(p, image)
			m, err := table.OpenMap(t.Context(), b.v, p.Disks[0])
			must(t, err)
			stored, bytes := map[id.Chunk]bool{}, int64(0)
			for x, err := range m.Range(t.Context(), 0, m.Size()) {
				must(t, err)
				if x.Pack.Job == j.x.w.Config.Job && !stored[x.Chunk] {
					stored[x.Chunk] = true
					bytes += int64(x.Stored)
				}
				if x.Pack == (table.PackRef{Job: gone.Job, Name: gone.Pack}) {
					t.Fatalf("the point has %d bytes at %d in the pack that has gone", x.Length, x.Offset)
				}
			}
			for _, f := range j.facts() {
				if d, ok := f.(events.DiskSealed); ok && (d.ZeroBytes+d.UnchangedBytes+d.KnownBytes+d.NewBytes != d.Size || d.Reread != uint32(len(again)) || min(d.ZeroBytes, d.UnchangedBytes, d.KnownBytes, d.NewBytes) < 0) {
					t.Errorf("%+v does not add up", d)
				} else if ok && (d.NewChunks != uint64(len(stored)) || d.StoredBytes != bytes || d.KnownChunks > 99) {
					t.Errorf("%d chunks of %d bytes are new, %d known; the point has %d of %d", d.NewChunks, d.StoredBytes, d.KnownChunks, len(stored), bytes)
				}
			}
		})
	}
}

// What was stored again and goes as well, while the job has no other place for it,
// ends the guest's part in the job.
func TestPackRetiredTwice(t *testing.T) {
	b := newLab(t)
	j := b.whole(1, nil, noisy(6, 4*labCell))
	j.x.guests[0].replaced = map[flow.PackID]bool{}
	for n := range j.x.packs {
		k := flow.PackID{Job: j.x.packs[n].job, Name: j.x.packs[n].Name}
		j.x.guests[0].replaced[k] = true
		b.say(events.PacksRetired{Packs: []events.PackName{{Job: k.Job, Pack: k.Name}}})
	}
	j.settle()
	if f := j.x.guests[0].fault; f == nil || f.Class != flow.Park || f.Code != "pack-retired" || j.committed() {
		t.Errorf("fault %+v", f)
	}
}

// Another guest of the job still refers to what has gone: by a reference that came
// before, and by ones that come after. Neither gets into a point.
func TestGonePackAndTheJobsOtherParcels(t *testing.T) {
	b := newLab(t)
	image := noisy(6, 4*labCell)
	first := b.begin(1, labCell, nil, image)
	first.run()
	j := b.begin(2, labCell, nil, image)
	j.tell(j.plan())
	pack := first.x.packs[0].Name
	j.x.gone[flow.PackID{Job: first.x.w.Config.Job, Name: pack}] = true
	turned := 0
	for n := range uint32(4) {
		p := j.parcel(0, n)
		j.decide(p)
		j.store(p)
		j.closePack([]*flow.Parcel{p})
		if j.tell(&flow.Message{Parcel: p}); !j.x.disks[0].has(n) {
			turned++
		}
	}
	if turned == 0 {
		t.Error("a reference to a pack that has gone was taken")
	}
}

// What only the parent's tables name is looked for as well.
func TestPackOfTheParentThatIsGone(t *testing.T) {
	b := newLab(t)
	image := noisy(6, 4*labCell)
	point := b.begin(1, labCell, nil, image).run()
	copy(image[labCell:], noisy(7, labCell))
	j := b.whole(2, point, image)
	m, err := table.OpenMap(t.Context(), b.v, point.Disks[0])
	must(t, err)
	for p := range m.Packs() {
		must(t, b.v.Store.Delete(t.Context(), "packs/"+p.Job.String()+"/"+p.Name.String()))
		break
	}
	j.settle()
	if f := j.x.guests[0].fault; f != nil || j.committed() {
		t.Fatalf("fault %+v", f)
	}
	j.afresh()
	b.want(j.commit(), image)
}

// A fenced job says nothing more: no pack, no point.
func TestFencedJobCommitsNothing(t *testing.T) {
	b := newLab(t)
	image := noisy(6, 4*labCell)
	j := b.whole(1, nil, image)
	b.say(events.JobFenced{Fenced: j.x.w.Config.Job, Why: "silence"})
	before, _, _ := b.l.Head()
	for _, try := range []func() error{
		func() error { return j.x.commit(t.Context(), 0) },
		func() error { return j.x.record(t.Context()) },
	} {
		err := try()
		if f := flow.AsFault(err, flow.Indexer); !errors.Is(err, ledger.ErrFenced) || f.Class != flow.Halt || f.Code != "fenced" {
			t.Errorf("got %+v", f)
		}
	}
	if after, _, _ := b.l.Head(); after != before || j.committed() {
		t.Errorf("the ledger grew from %d to %d segments", before, after)
	}
	// Nobody else is stopped by it.
	must(t, b.whole(2, nil, image).x.commit(t.Context(), 0))
}

// A parcel that was stored again into a pack which goes as well, before it comes, is
// asked for once more; and no point has it.
func TestStoredAgainIntoAPackThatGoes(t *testing.T) {
	b := newLab(t)
	image := noisy(6, 2*labCell)
	j := b.begin(1, labCell, nil, image)
	j.tell(j.plan())
	ready := []*flow.Parcel{j.parcel(0, 0), j.parcel(0, 1)}
	for _, p := range ready {
		p.Fresh = true
		j.decide(p)
		j.store(p)
	}
	j.closePack(ready)
	j.tell(&flow.Message{Parcel: ready[0]})
	j.x.gone[flow.PackID{Job: j.x.w.Config.Job, Name: ready[0].Packs[0].Name}] = true
	j.tell(&flow.Message{Parcel: ready[1]})
	if ask := j.ask(); j.x.disks[0].has(1) || ask == nil || !ask.Fresh || ask.Reread[0].Number != 1 {
		t.Fatalf("asked %+v", ask)
	}
	j.tell(&flow.Message{Parcel: ready[1]}) // and once more, by its asked-for reading
	if ask := j.ask(); ask == nil || !ask.Fresh || ask.Reread[0].Number != 1 {
		t.Fatalf("asked %+v", ask)
	}
}

// References by the thousand that lead nowhere: however many parcels are refused, few
// are on their way at a time, so that no queue fills with questions; all come in.
func TestManyRefusedParcels(t *testing.T) {
	const n = 600
	b := newLab(t)
	image := make([]byte, n*labCell)
	for k := range n { // no two cells are equal
		binary.LittleEndian.PutUint32(image[k*labCell:], uint32(k+1))
	}
	first := b.begin(1, labCell, nil, image)
	first.run()
	j := b.begin(2, labCell, nil, image)
	j.tell(j.plan())
	for k := range first.x.packs {
		j.x.gone[flow.PackID{Job: first.x.packs[k].job, Name: first.x.packs[k].Name}] = true
	}
	var out []flow.RecheckEntry
	questions, of, open := 0, map[flow.RecheckEntry]int{}, map[int]int{}
	ask := func() {
		for a := j.ask(); a != nil; a = j.ask() {
			questions++
			for _, e := range a.Reread {
				of[e] = questions
				open[questions]++
			}
			out = append(out, a.Reread...)
		}
		if len(open) > asks.Window {
			t.Fatalf("%d questions are open", len(open))
		}
	}
	for k := range uint32(n) {
		p := j.parcel(0, k)
		j.decide(p)
		j.tell(&flow.Message{Parcel: p})
		ask()
	}
	if j.x.disks[0].left != n {
		t.Fatalf("%d of %d parcels were taken", n-j.x.disks[0].left, n)
	}
	for came := 0; len(out) > 0; came++ {
		p, q := j.parcel(0, out[0].Number), of[out[0]]
		if open[q]--; open[q] == 0 {
			delete(open, q)
		}
		p.Fresh, out = true, out[1:]
		j.through([]*flow.Parcel{p})
		ask()
	}
	if questions > 2+3*n/asks.Company { // for each, snapshot goes through the whole disk
		t.Errorf("%d questions for %d parcels", questions, n)
	}
	b.want(j.commit(), image)
}

// A parcel that has come, is stale, and is lost on its way is asked for as what it
// is: to be stored again.
func TestLostOnItsWayToBeStoredAgain(t *testing.T) {
	b := newLab(t)
	j := b.whole(1, nil, noisy(6, 4*labCell))
	pack := j.x.packs[0]
	b.say(events.PacksRetired{Packs: []events.PackName{{Job: pack.job, Pack: pack.Name}}})
	j.settle()
	asked := j.ask()
	missing := j.x.missing(0, 99)
	if len(missing) != 1 || len(asked.Reread) == 0 {
		t.Errorf("missing %+v, asked %+v", missing, asked)
	}
	for _, p := range missing {
		if !p.Fresh || len(p.List) != len(asked.Reread) {
			t.Errorf("missing %+v, asked %+v", p, asked)
		}
	}
}
