package delta

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

var (
	home  = id.Domain{1}
	other = id.Domain{2}
)

// parent is a disk of the parent point: pieces in order, without gap.
type parent struct {
	pieces []table.MapPiece
	broken error
}

func (m *parent) Size() int64 {
	if len(m.pieces) == 0 {
		return 0
	}
	last := m.pieces[len(m.pieces)-1]
	return last.Offset + last.Length
}

// Range cuts pieces at the edges, as table.Map does.
func (m *parent) Range(_ context.Context, from, to int64) iter.Seq2[table.MapPiece, error] {
	return func(yield func(table.MapPiece, error) bool) {
		for _, p := range m.pieces {
			a, b := max(p.Offset, from), min(p.Offset+p.Length, to)
			if a >= b {
				continue
			}
			if !p.Zero {
				p.ChunkOffset += a - p.Offset
			}
			p.Offset, p.Length = a, b-a
			if !yield(p, nil) {
				return
			}
		}
		if m.broken != nil {
			yield(table.MapPiece{}, m.broken)
		}
	}
}

type known map[id.Chunk]bool

func (k known) Find(c id.Chunk) (chunkindex.Place, bool) {
	return chunkindex.Place{Job: id.Job{1}, Pack: id.Object(c)}, k[c] // a pack for each
}

func (known) TakeUp(bool) error { return nil }

// newStage is a stage for one disk; no parent if m is nil.
func newStage(t *testing.T, m *parent, k known) (*stage, *arena.Recent) {
	t.Helper()
	a, err := arena.New(arena.Shape{RawSlots: 1, SealedSlots: 1, RawSize: 4096, SealedSize: 4096, RecentEntries: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	d := flow.WorkDisk{}
	if m != nil {
		d.Parent = &events.PointDisk{}
	}
	w := &flow.Worker{Config: flow.Config{Work: flow.Work{Domain: home, Disks: []flow.WorkDisk{d}}}}
	s := &stage{w: w, index: k, recent: a.Recent(), distrusted: map[flow.PackID]bool{}, open: func(context.Context, flow.WorkDisk) (Map, error) { return m, nil }}
	return s, a.Recent()
}

func data(at, n int64, c byte) table.MapPiece {
	return table.MapPiece{Offset: at, Length: n, Chunk: id.Chunk{c}, Domain: home, Raw: uint32(n)}
}

func zero(at, n int64) table.MapPiece { return table.MapPiece{Offset: at, Length: n, Zero: true} }

func TestVerdicts(t *testing.T) {
	inner, foreign := data(0, 10, 1), data(0, 10, 1)
	inner.ChunkOffset = 5
	foreign.Domain = other
	piece := func(n uint32, c byte) flow.Piece { return flow.Piece{Length: n, Chunk: id.Chunk{c}} }
	hole := func(n uint32) flow.Piece { return flow.Piece{Length: n, Zero: true} }
	for name, c := range map[string]struct {
		parent *parent
		fresh  bool
		x      flow.Piece
		want   flow.Verdict
	}{
		"first point, zeros":             {nil, false, hole(10), flow.Unchanged},
		"first point, data":              {nil, false, piece(10, 1), flow.New},
		"first point, in the index":      {nil, false, piece(10, 8), flow.Known},
		"first point, durable in job":    {nil, false, piece(10, 9), flow.Known},
		"same":                           {&parent{pieces: []table.MapPiece{data(0, 10, 1)}}, false, piece(10, 1), flow.Unchanged},
		"same, but nothing is believed":  {&parent{pieces: []table.MapPiece{data(0, 10, 1)}}, true, piece(10, 1), flow.New},
		"known, but nothing is believed": {nil, true, piece(10, 8), flow.New},
		"another chunk":                  {&parent{pieces: []table.MapPiece{data(0, 10, 2)}}, false, piece(10, 1), flow.New},
		"another chunk, known":           {&parent{pieces: []table.MapPiece{data(0, 10, 2)}}, false, piece(10, 8), flow.Known},
		"the old one is cut off":         {&parent{pieces: []table.MapPiece{data(0, 9, 1), zero(9, 1)}}, false, piece(10, 1), flow.New},
		"a part of the chunk":            {&parent{pieces: []table.MapPiece{inner}}, false, piece(10, 1), flow.New},
		"of another domain":              {&parent{pieces: []table.MapPiece{foreign}}, false, piece(10, 1), flow.New},
		"data where zeros were":          {&parent{pieces: []table.MapPiece{zero(0, 10)}}, false, piece(10, 1), flow.New},
		"zeros where data was":           {&parent{pieces: []table.MapPiece{data(0, 10, 1)}}, false, hole(10), flow.New},
		"zeros where zeros were":         {&parent{pieces: []table.MapPiece{zero(0, 20)}}, false, hole(10), flow.Unchanged},
		"zeros, and data at their end":   {&parent{pieces: []table.MapPiece{zero(0, 9), data(9, 5, 1)}}, false, hole(10), flow.New},
		"zeros beyond the old end":       {&parent{pieces: []table.MapPiece{zero(0, 5)}}, false, hole(10), flow.New},
		"data beyond the old end":        {&parent{}, false, piece(10, 1), flow.New},
	} {
		t.Run(name, func(t *testing.T) {
			s, recent := newStage(t, c.parent, known{id.Chunk{8}: true})
			recent.Add(id.Chunk{9})
			p := &flow.Parcel{Length: 10, Fresh: c.fresh, Pieces: flow.Pieces{c.x}}
			if err := s.load(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			store := s.judge(p)
			if got := p.Pieces[0].Verdict; got != c.want || store != (got == flow.New && !c.x.Zero) {
				t.Errorf("verdict %d, to be stored %v; want %d", got, store, c.want)
			}
		})
	}
}

// TestDistrustedPacks: what only they have is new, the same bytes elsewhere are not.
func TestDistrustedPacks(t *testing.T) {
	here, there := data(0, 10, 1), data(10, 10, 2)
	here.Pack = table.PackRef{Job: id.Job{1}, Name: id.Object{7}}
	there.Pack = table.PackRef{Job: id.Job{1}, Name: id.Object{5}}
	s, recent := newStage(t, &parent{pieces: []table.MapPiece{here, there}}, known{id.Chunk{1}: true, id.Chunk{3}: true, id.Chunk{4}: true, id.Chunk{6}: true})
	recent.Add(id.Chunk{6})
	for _, n := range []id.Object{{3}, {5}, {6}} {
		s.distrusted[flow.PackID{Job: id.Job{1}, Name: n}] = true
	}
	p := &flow.Parcel{Length: 60}
	for n, c := range []byte{1, 2, 1, 3, 4, 6} {
		p.Pieces = append(p.Pieces, flow.Piece{Offset: uint32(10 * n), Length: 10, Chunk: id.Chunk{c}})
	}
	if err := s.load(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	s.judge(p)
	for n, want := range []flow.Verdict{flow.Unchanged, flow.New, flow.Known, flow.New, flow.Known, flow.Known} {
		if got := p.Pieces[n].Verdict; got != want {
			t.Errorf("piece %d: verdict %d, want %d", n, got, want)
		}
	}
}

// TestWithdrawnChunks: one that was withdrawn where it lies is new, its neighbours in the
// same pack are not.
func TestWithdrawnChunks(t *testing.T) {
	pack := table.PackRef{Job: id.Job{1}, Name: id.Object{7}}
	bad, good := data(0, 10, 1), data(10, 10, 2)
	bad.Pack, good.Pack = pack, pack
	s, _ := newStage(t, &parent{pieces: []table.MapPiece{bad, good}}, known{id.Chunk{3}: true})
	s.withdrawn = map[flow.Place]bool{{Pack: flow.PackID(pack), Chunk: id.Chunk{1}}: true, {Pack: flow.PackID{Job: id.Job{1}, Name: id.Object{3}}, Chunk: id.Chunk{3}}: true}
	p := &flow.Parcel{Length: 30, Pieces: flow.Pieces{{Length: 10, Chunk: id.Chunk{1}}, {Offset: 10, Length: 10, Chunk: id.Chunk{2}}, {Offset: 20, Length: 10, Chunk: id.Chunk{3}}}}
	if err := s.load(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	s.judge(p)
	for n, want := range []flow.Verdict{flow.New, flow.Unchanged, flow.New} {
		if got := p.Pieces[n].Verdict; got != want {
			t.Errorf("piece %d: verdict %d, want %d", n, got, want)
		}
	}
}

// TestVerdictsAgainstModel: disks as rows of numbers, a number per byte. What is
// unchanged has the parent's bytes; what has the parent's pieces is unchanged.
func TestVerdictsAgainstModel(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		old := pieces(rnd, 40+rnd.Int64N(60))
		now := pieces(rnd, 100)
		for at, end := 0, int64(0); at < len(now) && at < len(old); at++ { // begin as the parent does, often
			if rnd.IntN(6) == 0 || old[at].Offset != end {
				break
			}
			now[at], end = old[at], old[at].Offset+old[at].Length
			now = append(now[:at+1], rest(rnd, end, 100)...)
		}
		k := known{}
		for c := range byte(40) {
			k[id.Chunk{c}] = rnd.IntN(3) == 0
		}
		s, _ := newStage(t, &parent{pieces: old}, k)
		p := &flow.Parcel{Length: 100}
		for _, x := range now {
			p.Pieces = append(p.Pieces, flow.Piece{Offset: uint32(x.Offset), Length: uint32(x.Length), Zero: x.Zero, Chunk: x.Chunk})
		}
		if err := s.load(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		s.judge(p)
		for _, x := range p.Pieces {
			same := false
			for _, o := range old {
				from, to := int64(x.Offset), int64(x.Offset+x.Length)
				if x.Zero {
					same = same || o.Zero && o.Offset <= from && to <= o.Offset+o.Length
				} else {
					same = same || !o.Zero && o.Offset == from && o.Offset+o.Length == to && o.Chunk == x.Chunk
				}
			}
			want := flow.New
			if same {
				want = flow.Unchanged
			} else if !x.Zero && k[x.Chunk] {
				want = flow.Known
			}
			if x.Verdict != want {
				t.Fatalf("seed %d: %+v, want verdict %d; parent %+v", seed, x, want, old)
			}
		}
	}
}

// pieces covers a disk with chunks and zero runs that do not touch each other.
func pieces(rnd *rand.Rand, size int64) []table.MapPiece { return rest(rnd, 0, size) }

func rest(rnd *rand.Rand, at, size int64) (out []table.MapPiece) {
	for at < size {
		n := min(1+rnd.Int64N(12), size-at)
		if rnd.IntN(4) == 0 && (len(out) == 0 || !out[len(out)-1].Zero) {
			out = append(out, zero(at, n))
		} else {
			out = append(out, data(at, n, byte(rnd.IntN(40))))
		}
		at += n
	}
	return out
}

func TestWhatCannotBeRead(t *testing.T) {
	broken := errors.New("the vault is gone")
	s, _ := newStage(t, &parent{pieces: []table.MapPiece{zero(0, 10)}, broken: broken}, nil)
	var f *flow.Fault
	if err := s.load(t.Context(), &flow.Parcel{Length: 10}); !errors.Is(err, broken) || !errors.As(err, &f) || f.Class != flow.Halt {
		t.Errorf("got %v", err)
	}
	for _, lost := range []error{vault.ErrDamaged, store.ErrNotFound} { // that guest's end, with a way out
		s, _ := newStage(t, &parent{pieces: []table.MapPiece{zero(0, 10)}, broken: lost}, nil)
		if err := s.load(t.Context(), &flow.Parcel{Length: 10}); !errors.As(err, &f) || f.Class != flow.Park || !strings.Contains(f.Remedy, "--scan full") {
			t.Errorf("got %+v", err)
		}
	}
	s, _ = newStage(t, &parent{}, nil)
	s.open = func(context.Context, flow.WorkDisk) (Map, error) { return (*table.Map)(nil), broken }
	for range 2 { // and it is not remembered as a disk without a parent
		if err := s.load(t.Context(), &flow.Parcel{Length: 10}); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
	if err := s.load(t.Context(), &flow.Parcel{Disk: 1, Length: 10}); !errors.As(err, &f) || f.Class != flow.Corrupt {
		t.Errorf("got %v", err)
	}
}

// TestReadTwiceGoesPast: it is compared by the indexer and with nothing else.
func TestReadTwiceGoesPast(t *testing.T) {
	s, _ := newStage(t, nil, nil)
	p := &flow.Parcel{Pass: flow.PassRecheck, Length: 10, Claim: arena.Claim{Generation: 1}, Pieces: flow.Pieces{{Length: 10}}}
	to, out, err := s.decide(t.Context(), &flow.Delivery{Message: &flow.Message{Parcel: p}}, arena.Slot{})
	if err != nil || to != flow.Indexer || !out.Claim.IsZero() || out.Pieces[0].Verdict != flow.Undecided {
		t.Errorf("to %q, %+v, %v", to, out, err)
	}
}

// TestWhere: what has something new goes to seal with its bytes, the rest past it.
func TestWhere(t *testing.T) {
	s, _ := newStage(t, nil, known{id.Chunk{1}: true})
	for c, want := range map[byte]string{1: flow.Indexer, 2: flow.Seal} {
		p := &flow.Parcel{Length: 20, Claim: arena.Claim{Generation: 1}, Pieces: flow.Pieces{{Length: 10, Chunk: id.Chunk{c}}, {Offset: 10, Length: 10, Zero: true}}}
		to, out, err := s.decide(t.Context(), &flow.Delivery{Message: &flow.Message{Parcel: p}}, arena.Slot{})
		if err != nil || to != want || out.Claim.IsZero() != (want == flow.Indexer) {
			t.Errorf("chunk %d: to %q, claim %+v, %v", c, to, out.Claim, err)
		}
	}
}

// A job of many disks has few maps open, and still compares each with its own.
func TestFewMapsAreOpen(t *testing.T) {
	s, _ := newStage(t, &parent{}, nil)
	const disks = 3 * maxMaps
	opens := 0
	s.w.Config.Work.Disks = make([]flow.WorkDisk, disks)
	for i := range disks {
		s.w.Config.Work.Disks[i].Parent = &events.PointDisk{Size: int64(i)}
	}
	s.open = func(_ context.Context, d flow.WorkDisk) (Map, error) {
		opens++
		return &parent{pieces: []table.MapPiece{data(0, 4096, byte(d.Parent.Size))}}, nil
	}
	for round := range 2 * disks {
		disk := uint32(round % disks)
		for range 3 {
			p := &flow.Parcel{Disk: disk, Length: 4096, Pieces: flow.Pieces{{Length: 4096, Chunk: id.Chunk{byte(disk)}}}}
			to, _, err := s.decide(t.Context(), &flow.Delivery{Message: &flow.Message{Parcel: p}}, arena.Slot{})
			if err != nil || to != flow.Indexer || p.Pieces[0].Verdict != flow.Unchanged {
				t.Fatalf("disk %d: to %q, %v, verdict %d", disk, to, err, p.Pieces[0].Verdict)
			}
			if len(s.maps) > maxMaps {
				t.Fatalf("%d maps are open", len(s.maps))
			}
		}
	}
	if opens != 2*disks {
		t.Errorf("opened %d maps, not one for each turn of a disk", opens)
	}
}
