package indexer

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
)

// noisy is an image without zeros or repeats.
func noisy(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// ready is a parcel as it comes to the indexer.
func (j *job) ready(disk int, n uint32) *flow.Parcel {
	p := j.parcel(disk, n)
	j.decide(p)
	j.store(p)
	j.closePack([]*flow.Parcel{p})
	return p
}

func TestParcelsThatAreRefused(t *testing.T) {
	b := newLab(t)
	j := b.begin(1, 2*labCell, nil, noisy(1, 5*labCell+10))
	for name, spoil := range map[string]func(p *flow.Parcel){
		"a disk that is not there":   func(p *flow.Parcel) { p.Disk = 1 },
		"a number beyond the end":    func(p *flow.Parcel) { p.Number, p.Offset = 3, 6*labCell },
		"at another place":           func(p *flow.Parcel) { p.Offset += labCell },
		"a piece too few":            func(p *flow.Parcel) { p.Pieces = p.Pieces[:len(p.Pieces)-1] },
		"pieces and length too long": func(p *flow.Parcel) { p.Pieces[len(p.Pieces)-1].Length++; p.Length++ },
		"pieces and length too short": func(p *flow.Parcel) {
			p.Length -= int64(p.Pieces[len(p.Pieces)-1].Length)
			p.Pieces = p.Pieces[:len(p.Pieces)-1]
		},
		"not through delta":       func(p *flow.Parcel) { p.Pieces[1].Verdict = flow.Undecided },
		"not through seal":        func(p *flow.Parcel) { p.Pieces[1].Stored = 0 },
		"not through uploader":    func(p *flow.Parcel) { p.Packs = nil },
		"in two packs":            func(p *flow.Parcel) { p.Packs = append(p.Packs, p.Packs[0]) },
		"known zeros":             func(p *flow.Parcel) { p.Pieces[1].Zero, p.Pieces[1].Verdict = true, flow.Known },
		"unchanged since nothing": func(p *flow.Parcel) { p.Pieces[1].Verdict = flow.Unchanged },
	} {
		t.Run(name, func(t *testing.T) {
			p := j.ready(0, 1)
			spoil(p)
			err := j.x.learn(t.Context(), &flow.Message{Parcel: p})
			var f *flow.Fault
			if !errors.As(err, &f) || f.Class != flow.Corrupt {
				t.Errorf("got %v, want a fault that stops the job", err)
			}
		})
	}
	if s, _ := os.Stat(j.x.journal.Path()); s.Size() != 0 || j.x.disks[0].has(1) {
		t.Error("a refused parcel left something behind")
	}
}

func TestPlansThatAreRefused(t *testing.T) {
	b := newLab(t)
	j := b.begin(1, labCell, nil, noisy(1, 9*labCell), noisy(2, labCell))
	for name, spoil := range map[string]func(p *flow.Plan, f []events.Fact) []events.Fact{
		"no such guest":      func(p *flow.Plan, f []events.Fact) []events.Fact { p.Guest = 1; return f },
		"a disk is left out": func(p *flow.Plan, f []events.Fact) []events.Fact { return f[:1] },
		"more parcels than marked": func(p *flow.Plan, f []events.Fact) []events.Fact {
			return change(f, func(c *events.ChangesResolved) { c.Parcels++ })
		},
		"no marks": func(p *flow.Plan, f []events.Fact) []events.Fact {
			return change(f, func(c *events.ChangesResolved) { c.Cells = nil })
		},
		"a mark beyond the end": func(p *flow.Plan, f []events.Fact) []events.Fact {
			return change(f, func(c *events.ChangesResolved) { c.Cells[1] = 2 })
		},
		"no such disk": func(p *flow.Plan, f []events.Fact) []events.Fact {
			return change(f, func(c *events.ChangesResolved) { c.Number = 9 })
		},
		"twice what is not in the plan": func(p *flow.Plan, f []events.Fact) []events.Fact {
			p.Recheck = []flow.RecheckEntry{{Number: 8}}
			return f
		},
		"twice what is not there": func(p *flow.Plan, f []events.Fact) []events.Fact {
			p.Recheck = []flow.RecheckEntry{{Number: 900}}
			return f
		},
		"a mark of what is not there": func(p *flow.Plan, f []events.Fact) []events.Fact {
			p.Marks = []flow.Marks{{Bits: make([]byte, 1<<20)}, {Bits: append(make([]byte, 1<<20), 1)}}
			return f
		},
		"marks of no disk": func(p *flow.Plan, f []events.Fact) []events.Fact {
			p.Marks = []flow.Marks{{Disk: 1<<32 - 1, Bits: []byte{1}}}
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := []events.Fact{
				events.ChangesResolved{Number: 0, Cells: []byte{0xff, 0}, Parcels: 8},
				events.ChangesResolved{Number: 1, Cells: []byte{1}, Parcels: 1},
			}
			p := &flow.Plan{}
			f = spoil(p, f)
			var records []events.Record
			for _, f := range f {
				records = append(records, events.NewRecord(time.Now(), j.x.w.Config.Job, f))
			}
			var err error
			p.Facts, err = events.EncodeRecords(records)
			must(t, err)
			var fault *flow.Fault
			if err := j.x.takePlan(p); !errors.As(err, &fault) || fault.Class != flow.Corrupt || j.x.guests[0].planned {
				t.Errorf("got %v, want a fault that stops the job", err)
			}
		})
	}
}

func change(f []events.Fact, edit func(*events.ChangesResolved)) []events.Fact {
	c := f[0].(events.ChangesResolved)
	edit(&c)
	return []events.Fact{c, f[1]}
}

func TestDuplicatesAreDropped(t *testing.T) {
	b := newLab(t)
	j := b.begin(1, labCell, nil, noisy(1, 3*labCell))
	j.tell(j.plan(flow.RecheckEntry{Number: 1}))
	j.tell(&flow.Message{Parcel: j.ready(0, 1)})
	j.again([]flow.RecheckEntry{{Number: 1}})
	before := j.x.progress()
	size, _ := os.Stat(j.x.journal.Path())
	for range 3 {
		j.tell(&flow.Message{Parcel: j.ready(0, 1)})
		j.again([]flow.RecheckEntry{{Number: 1}, {Number: 2}}) // 2 is none that comes twice
	}
	j.tell(j.plan())
	after, _ := os.Stat(j.x.journal.Path())
	if now := j.x.progress(); now.Disks[0] != before.Disks[0] || now.PackBytes != before.PackBytes {
		t.Errorf("duplicates changed %+v to %+v", before, now)
	}
	// The plan is journaled again: it comes once per restart of snapshot. Parcels are not.
	b2, err := j.plan().Encode()
	must(t, err)
	if grown := after.Size() - size.Size(); grown != int64(12+len(b2)) {
		t.Errorf("duplicates added %d bytes to the journal", grown)
	}
}

func TestPlanAfterParcels(t *testing.T) {
	b := newLab(t)
	image := noisy(1, 4*labCell)
	j := b.begin(1, labCell, nil, image)
	for n := range uint32(4) {
		if j.x.complete(0) {
			t.Fatal("complete without a plan")
		}
		j.tell(&flow.Message{Parcel: j.ready(0, n)})
	}
	if out, again := j.lacks(9); out != nil || again != nil {
		t.Error("parcels are missing from a plan that is not there")
	}
	j.tell(j.plan())
	if !j.x.complete(0) || j.x.progress().Disks[0].Left != 0 {
		t.Error("not complete")
	}
	b.want(j.commit(), image)
}

// TestDataWhereAHoleWas: a parcel outside the plan says that the image changed,
// whether it comes before the plan or after it, and never the whole job's end.
func TestDataWhereAHoleWas(t *testing.T) {
	b := newLab(t)
	for _, planFirst := range []bool{true, false} {
		image := noisy(1, 3*labCell)
		j := b.begin(1, labCell, nil, image)
		clear(image[labCell : 2*labCell])
		plan := j.plan()
		copy(image, noisy(1, 3*labCell))
		if planFirst {
			j.tell(plan)
		}
		j.tell(&flow.Message{Parcel: j.ready(0, 1)})
		j.tell(plan)
		if f := j.x.guests[0].fault; f == nil || f.Class != flow.Park || f.Code != "source-changed" {
			t.Errorf("plan first %v: fault %+v", planFirst, f)
		}
		j.tell(&flow.Message{Parcel: j.ready(0, 0)})
		if j.x.complete(0) {
			t.Errorf("plan first %v: complete, and parcel 2 has not come", planFirst)
		}
		again := j.indexer(j.x.journal.Path(), j.x.w.Config)
		if again.guests[0].fault == nil {
			t.Error("a restarted process has forgotten the fault")
		}
	}
}

func TestReadTwice(t *testing.T) {
	for _, first := range []bool{true, false} { // the original before the second reading, or after
		for _, changed := range []bool{false, true} {
			b := newLab(t)
			image := noisy(1, 2*labCell)
			j := b.begin(1, labCell, nil, image)
			original := j.ready(0, 1)
			j.tell(&flow.Message{Parcel: j.ready(0, 0)})
			j.tell(j.plan(flow.RecheckEntry{Number: 1}))
			if first {
				j.tell(&flow.Message{Parcel: original})
				if j.x.complete(0) {
					t.Fatal("complete before the second reading")
				}
			}
			if out, again := j.lacks(9); len(again) != 1 || (len(out) == 0) != first {
				t.Errorf("missing %v, again %v", out, again)
			}
			if changed {
				image[labCell+5] ^= 1
			}
			j.again([]flow.RecheckEntry{{Number: 1}})
			if !first {
				j.tell(&flow.Message{Parcel: original})
			}
			if out, again := j.lacks(9); len(again)+len(out) != 0 {
				t.Errorf("missing %v, again %v", out, again)
			}
			f := j.x.guests[0].fault
			if !j.x.complete(0) || changed != (f != nil) || changed && (f.Code != "source-changed" || f.Class != flow.Park) {
				t.Errorf("original first %v, changed %v: fault %v", first, changed, f)
			}
		}
	}
}

// TestReferenceThatLeadsNowhere: it is read again with nothing taken as known.
func TestReferenceThatLeadsNowhere(t *testing.T) {
	b := newLab(t)
	image := noisy(1, 2*labCell)
	j := b.begin(1, labCell, nil, image)
	j.tell(j.plan())
	p := j.ready(0, 1)
	for i := range p.Pieces {
		p.Pieces[i].Verdict, p.Pieces[i].Stored = flow.Known, 0
	}
	j.tell(&flow.Message{Parcel: p})
	ask := j.ask()
	if ask == nil || !ask.Fresh || ask.Pass != flow.PassBackup || len(ask.Reread) != 1 || ask.Reread[0] != (flow.RecheckEntry{Number: 1}) {
		t.Fatalf("asked %+v", ask)
	}
	if s, _ := os.Stat(j.x.journal.Path()); j.x.disks[0].has(1) || j.x.disks[0].left != 2 || s.Size() == 0 {
		t.Error("the parcel was taken all the same")
	}
	p = j.parcel(0, 1)
	p.Fresh = true
	j.decide(p)
	j.store(p)
	j.closePack([]*flow.Parcel{p})
	j.tell(&flow.Message{Parcel: p})
	j.tell(&flow.Message{Parcel: j.ready(0, 0)})
	b.want(j.commit(), image)
	if j.x.disks[0].reread != 1 {
		t.Errorf("reread %d", j.x.disks[0].reread)
	}
}

// TestStoredAgain: what was stored because an old place is not trusted is
// referred to at its new place.
func TestStoredAgain(t *testing.T) {
	b := newLab(t)
	image := noisy(1, labCell)
	old := b.begin(1, labCell, nil, image)
	old.run()
	j := b.begin(2, labCell, nil, image)
	j.tell(j.plan())
	p := j.parcel(0, 0)
	p.Fresh = true
	j.decide(p)
	j.store(p)
	j.closePack([]*flow.Parcel{p})
	j.tell(&flow.Message{Parcel: p})
	point := j.commit()
	m, err := table.OpenMap(t.Context(), b.v, point.Disks[0])
	must(t, err)
	for x, err := range m.Range(t.Context(), 0, m.Size()) {
		must(t, err)
		if x.Pack.Job != j.x.w.Config.Job {
			t.Fatalf("piece at %d is in a pack of an earlier job", x.Offset)
		}
	}
	if d := j.x.disks[0]; d.stored == 0 || d.newChunks != uint64(len(p.Pieces)) {
		t.Errorf("stored %d bytes, %d chunks", d.stored, d.newChunks)
	}
}

// TestTwins: the same chunk twice in a parcel, twice in a pack, and in two packs.
func TestTwins(t *testing.T) {
	b := newLab(t)
	one := noisy(3, labCell)
	image := bytes.Repeat(one, 4)
	j := b.begin(1, 2*labCell, nil, image)
	j.tell(j.plan())
	p, q := j.parcel(0, 0), j.parcel(0, 1)
	j.decide(p)
	j.decide(q) // before p is known: in flight, so new
	j.store(p)
	j.closePack([]*flow.Parcel{p})
	j.store(q)
	j.closePack([]*flow.Parcel{q})
	j.tell(&flow.Message{Parcel: q})
	j.tell(&flow.Message{Parcel: p})
	d := j.x.disks[0]
	if d.fresh != int64(len(image)) || d.newChunks != uint64(len(p.Pieces)/2) || d.known != 0 {
		t.Errorf("new %d bytes in %d chunks, known %d", d.fresh, d.newChunks, d.known)
	}
	if len(j.x.packs) != 2 || j.x.unrecorded != 2 {
		t.Error("both packs are in the vault and both are to be recorded")
	}
	b.want(j.commit(), image)
	if j.x.unrecorded != 0 {
		t.Error("a pack was not recorded with the point")
	}
}

func TestFaults(t *testing.T) {
	b := newLab(t)
	j := b.begin(1, labCell, nil, noisy(1, labCell))
	j.tell(&flow.Message{Fault: &flow.Fault{Class: flow.Park, Code: "first", Disk: 0, ByDisk: true, Guest: 77}})
	j.tell(&flow.Message{Fault: &flow.Fault{Class: flow.Park, Code: "second"}})
	j.tell(&flow.Message{Fault: &flow.Fault{Class: flow.Park, Code: "nobody's", Guest: 9}})
	if f := j.x.guests[0].fault; f == nil || f.Code != "first" {
		t.Errorf("fault %+v", f)
	}
	again := j.indexer(j.x.journal.Path(), j.x.w.Config)
	if f := again.guests[0].fault; f == nil || f.Code != "first" {
		t.Errorf("after a restart: fault %+v", f)
	}
	point := id.NewPoint(j.x.w.Config.Job, b.guest)
	other := b.begin(1, labCell, nil, noisy(1, labCell))
	other.x.guests[0].point = point
	other.tell(&flow.Message{Fault: &flow.Fault{Class: flow.Park}})
	if other.x.guests[0].fault != nil {
		t.Error("a committed guest failed afterwards")
	}
}

func TestAnswers(t *testing.T) {
	b := newLab(t)
	j := b.begin(1, labCell, nil, noisy(1, labCell))
	j.tell(&flow.Message{Answer: &flow.Answer{}})
	if j.x.guests[0].confirmed {
		t.Error("an answer that confirms nothing was taken for one that does")
	}
	j.tell(&flow.Message{Answer: &flow.Answer{Confirmed: true}})
	j.tell(&flow.Message{Answer: &flow.Answer{Guest: 5, Confirmed: true}})
	if !j.x.guests[0].confirmed {
		t.Error("not confirmed")
	}
	again := j.indexer(j.x.journal.Path(), j.x.w.Config)
	if again.guests[0].confirmed {
		t.Error("a confirmation outlived its process: it is of the moment")
	}
	records, err := events.EncodeRecords([]events.Record{events.NewRecord(time.Now(), j.x.w.Config.Job, events.SnapshotReleased{Guest: b.guest})})
	must(t, err)
	for range 2 {
		j.tell(&flow.Message{Answer: &flow.Answer{Released: true, Facts: records}})
	}
	if facts := j.facts(); len(facts) != 1 || !j.x.guests[0].released {
		t.Errorf("released %v, facts %v", j.x.guests[0].released, facts)
	}
}

func TestMissing(t *testing.T) {
	b := newLab(t)
	j := b.begin(1, labCell, nil, noisy(1, 20*labCell), make([]byte, 4*labCell), noisy(2, 3*labCell))
	recheck := []flow.RecheckEntry{{Disk: 0, Number: 3}, {Disk: 2, Number: 0}, {Disk: 2, Number: 1}}
	j.tell(j.plan(recheck...))
	for _, n := range []uint32{0, 5, 19} {
		j.tell(&flow.Message{Parcel: j.ready(0, n)})
	}
	j.again(recheck[1:2])
	out, again := j.lacks(100)
	if len(out) != 17+3 || len(again) != 2 {
		t.Errorf("%d missing, %d to be read again", len(out), len(again))
	}
	for _, e := range out {
		if e.Disk == 0 && (e.Number == 0 || e.Number == 5 || e.Number == 19) || e.Disk == 1 {
			t.Errorf("%v is missing, and it is not", e)
		}
	}
	if out, again := j.lacks(2); len(out) != 2 || len(again) != 2 {
		t.Errorf("%d and %d, the limit is 2", len(out), len(again))
	}
}

// TestReplayGivesTheSameState at every end that a kill can give the journal.
func TestReplayGivesTheSameState(t *testing.T) {
	b := newLab(t)
	image := randomImage(rand.New(rand.NewPCG(5, 5)), 12*labCell)
	j := b.begin(3, labCell, nil, image)
	point := j.run()
	path := j.x.journal.Path()
	file, err := os.ReadFile(path)
	must(t, err)
	for n := range 40 {
		cut := len(file) * n / 40
		must(t, os.WriteFile(path, file[:cut], 0o600))
		next := &job{lab: b, images: j.images, sparse: j.sparse, known: j.known, rnd: j.rnd}
		next.x = next.indexer(path, j.x.w.Config)
		_, numbers := j.planned(0)
		for _, k := range numbers { // all that was not acknowledged comes again, and more
			next.through([]*flow.Parcel{next.parcel(0, k)})
		}
		next.tell(next.plan())
		_, left := next.lacks(100)
		next.again(left)
		if !next.x.complete(0) {
			t.Fatalf("cut at %d: incomplete", cut)
		}
		if n%8 == 0 {
			again := next.commit()
			b.want(again, image)
			if again.Disks[0].Root != point.Disks[0].Root {
				t.Errorf("cut at %d: another table", cut)
			}
		}
	}
}

// A restarted snapshot stage may want more to be read twice: the guest is complete
// only when that has come too. The first plan once more asks for nothing new.
func TestASecondPlanWidensTheRecheck(t *testing.T) {
	b := newLab(t)
	image := noisy(1, 2*labCell)
	j := b.begin(1, labCell, nil, image)
	first := []flow.RecheckEntry{{Number: 1}}
	j.tell(j.plan(first...))
	j.tell(&flow.Message{Parcel: j.ready(0, 0)})
	j.tell(&flow.Message{Parcel: j.ready(0, 1)})
	j.again(first)
	j.tell(j.plan(first...))
	if !j.x.complete(0) {
		t.Fatal("the first plan once more asks for something again")
	}
	all := []flow.RecheckEntry{{Number: 0}, {Number: 1}}
	j.tell(j.plan(all...))
	if j.x.complete(0) {
		t.Fatal("complete before the wider second reading")
	}
	image[7] ^= 1 // in the parcel that the first plan did not read twice
	j.again(all)
	if f := j.x.guests[0].fault; f == nil || f.Code != "source-changed" {
		t.Errorf("fault %v", f)
	}
}
