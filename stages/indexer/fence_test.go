package indexer

import (
	"errors"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
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

// A pack that the point needs and that is retired while the job runs keeps the
// point from being committed, whoever stored it and however it is needed.
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
			must(t, j.x.commit(t.Context(), 0))
			f := j.x.guests[0].fault
			if how == "distrusted before" {
				if f != nil || !j.committed() {
					t.Errorf("fault %+v", f)
				}
				return
			}
			if f == nil || f.Class != flow.Park || f.Code != "pack-retired" || j.committed() {
				t.Errorf("fault %+v, committed %v", f, j.committed())
			}
		})
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
	must(t, j.x.commit(t.Context(), 0))
	if f := j.x.guests[0].fault; f == nil || f.Class != flow.Park || f.Code != "damaged" || j.committed() {
		t.Errorf("fault %+v", f)
	}
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
