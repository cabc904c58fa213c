package snapshot

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

const cell = 64 << 10

// driver opens disks that are in memory, by path.
type driver map[string]*vdisktest.Sparse

type open struct{ *vdisktest.Sparse }

func (open) Close() error { return nil }

func (d driver) Open(_ context.Context, disk hypervisor.Disk) (hypervisor.OpenDisk, error) {
	if d[disk.Path] == nil {
		return nil, errors.New("it is not there")
	}
	return open{d[disk.Path]}, nil
}

func (driver) Freeze(context.Context, hypervisor.Guest, hypervisor.Policy) (hypervisor.Frozen, error) {
	return hypervisor.Frozen{}, nil
}

func (driver) Resume(context.Context, hypervisor.Guest, []byte) (hypervisor.Frozen, error) {
	return hypervisor.Frozen{}, nil
}

// frozen is a stage that holds one guest with this disk.
func frozen(m *vdisktest.Sparse, parcel int64) (*stage, *hold) {
	w := &flow.Worker{Config: flow.Config{Work: flow.Work{
		ParcelSize: parcel, CellSize: cell, Guests: []flow.WorkGuest{{}},
		Disks: []flow.WorkDisk{{Info: events.DiskInfo{Path: "/a", VirtualSize: m.Size()}}},
	}}}
	s := &stage{w: w, holds: map[uint32]*hold{}}
	return s, &hold{driver: driver{"/a": m}, guest: s.guest(0)}
}

// scattered is a disk with runs of data at random places.
func scattered(rnd *rand.Rand) *vdisktest.Sparse {
	m := vdisktest.NewSparse(1 + rnd.Int64N(40*cell))
	for range rnd.IntN(12) {
		n := 1 + rnd.Int64N(min(3*cell, m.Size()))
		b := make([]byte, n)
		b[0] = 1
		_, _ = m.WriteAt(b, rnd.Int64N(m.Size()-n+1))
	}
	return m
}

// TestParcelsCoverTheData: the runs of the parcels are the data extents, no byte
// more or less, each parcel in its place, and the plan counts them.
func TestParcelsCoverTheData(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		m := scattered(rnd)
		parcel := int64(cell) << rnd.IntN(3)
		s, h := frozen(m, parcel)
		p, err := s.plan(t.Context(), h, 0, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		var sent []*flow.Parcel
		if err := s.chosen(t.Context(), h, p, all, func(x *flow.Parcel) error { sent = append(sent, x); return nil }); err != nil {
			t.Fatal(err)
		}
		var runs []vdisk.Extent
		var read int64
		for i, x := range sent {
			n := int64(x.Number)
			if i > 0 && x.Number <= sent[i-1].Number || x.Offset != n*parcel || x.Length != min(parcel, m.Size()-x.Offset) || !p.has(x.Number) {
				t.Fatalf("seed %d: %s at %d of %d bytes", seed, x, x.Offset, x.Length)
			}
			b, err := (&flow.Message{Parcel: x}).Encode()
			if err == nil {
				_, err = flow.DecodeMessage(b) // which holds the runs against the parcel
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range x.Runs {
				read += r.Length
				runs = append(runs, vdisk.Extent{Offset: r.Offset, Length: r.Length})
			}
		}
		if p.fact.Parcels != uint32(len(sent)) || p.fact.ReadBytes != read || p.fact.DiskBytes != m.Size() {
			t.Fatalf("seed %d: %d parcels of %d bytes sent, the plan says %+v", seed, len(sent), read, p.fact)
		}
		got, err1 := vdisktest.Collect(vdisk.Merge(each(runs)))
		want, err2 := vdisktest.Collect(dataOnly(m.Extents(t.Context(), 0, m.Size())))
		if err1 != nil || err2 != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: runs %v, want %v", seed, got, want)
		}
	}
}

func each(all []vdisk.Extent) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func dataOnly(in iter.Seq2[vdisk.Extent, error]) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		for e, err := range in {
			if (err != nil || e.Kind == vdisk.Data) && !yield(e, err) {
				return
			}
		}
	}
}

func TestCutStopsWhereItIsTold(t *testing.T) {
	extents := []vdisk.Extent{{Offset: 0, Length: 5 * cell}, {Offset: 5 * cell, Length: cell, Kind: vdisk.Zero}, {Offset: 6 * cell, Length: 10}}
	for stop := 1; stop <= 6; stop++ {
		n := 0
		for range cut(each(extents), cell, 6*cell+10) {
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			t.Errorf("%d parcels, want %d", n, stop)
		}
	}
	broken := errors.New("broken")
	var got []error
	for x, err := range cut(func(yield func(vdisk.Extent, error) bool) {
		_ = yield(extents[0], nil) && yield(vdisk.Extent{}, broken)
	}, 8*cell, 8*cell) {
		if x != nil {
			t.Error("half a parcel before the error")
		}
		got = append(got, err)
	}
	if len(got) != 1 || !errors.Is(got[0], broken) {
		t.Errorf("errors %v", got)
	}
}

// TestSample: exactly as many as are wanted, all of them planned, the same for
// the same seed and not for another.
func TestSample(t *testing.T) {
	for _, c := range []struct {
		parcels uint32
		read    int64 // bytes of a parcel
		percent int
		want    int
	}{
		{0, 0, 1, 0},
		{1, 1, 1, 1},
		{3, 4 << 20, 1, 3},      // 16 MiB are the least: all
		{100, 4 << 20, 1, 4},    // 16 MiB
		{1000, 4 << 20, 1, 10},  // a hundredth
		{1000, 4 << 20, 0, 0},   // none at all
		{1000, 4096, 1, 1000},   // small parcels: many make 16 MiB
		{1000, 4096, 100, 1000}, // all
		{1000, 4 << 20, 50, 500},
	} {
		p := &plan{cells: make([]byte, (2*c.parcels+7)/8), fact: events.ChangesResolved{Number: 3, Parcels: c.parcels, ReadBytes: int64(c.parcels) * c.read}}
		for n := range c.parcels { // every other parcel of the disk
			p.cells[2*n/8] |= 1 << (2 * n % 8)
		}
		got := slices.Collect(p.sample(7, c.percent).All())
		if len(got) != c.want {
			t.Errorf("%+v: %d picked", c, len(got))
		}
		seen := map[uint32]bool{}
		for _, e := range got {
			if e.Disk != 3 || !p.has(e.Number) || seen[e.Number] {
				t.Errorf("%+v: picked %v", c, e)
			}
			seen[e.Number] = true
		}
		if again := slices.Collect(p.sample(7, c.percent).All()); !reflect.DeepEqual(again, got) {
			t.Errorf("%+v: another sample for the same seed", c)
		}
		if other := slices.Collect(p.sample(8, c.percent).All()); c.want > 2 && c.want < int(c.parcels) && reflect.DeepEqual(other, got) {
			t.Errorf("%+v: the same sample for another seed", c)
		}
	}
}

// TestSampleIsFair: every parcel has its turn.
func TestSampleIsFair(t *testing.T) {
	p := &plan{cells: make([]byte, 25), fact: events.ChangesResolved{Parcels: 200, ReadBytes: 200 * (4 << 20)}}
	for i := range p.cells {
		p.cells[i] = 0xff
	}
	count := map[uint32]int{}
	const rounds = 4000
	for seed := range uint64(rounds) {
		for e := range p.sample(seed, 5).All() {
			count[e.Number]++
		}
	}
	for n := range uint32(200) { // 200 expected each, 13.8 is one deviation
		if count[n] < 130 || count[n] > 270 {
			t.Errorf("parcel %d was picked %d times of %d", n, count[n], rounds)
		}
	}
}

// TestADiskThatMoved: data where the plan has a hole, a hole where it has data,
// another size, and a disk that is gone all fail the guest and only it.
func TestADiskThatMoved(t *testing.T) {
	made := func() *vdisktest.Sparse {
		m := vdisktest.NewSparse(10 * cell)
		_, _ = m.WriteAt([]byte{1}, 2*cell)
		_, _ = m.WriteAt([]byte{1}, 7*cell)
		return m
	}
	for name, c := range map[string]struct {
		move func(d driver)
		pick func(uint32) bool
		code string
	}{
		"nothing":              {func(driver) {}, all, ""},
		"data in a hole":       {func(d driver) { _, _ = d["/a"].WriteAt([]byte{1}, 5*cell) }, all, "source-changed"},
		"a hole in data":       {func(d driver) { d["/a"] = vdisktest.NewSparse(10 * cell) }, all, "source-changed"},
		"a hole where we look": {func(d driver) { d["/a"] = vdisktest.NewSparse(10 * cell) }, func(n uint32) bool { return n == 7 }, "source-changed"},
		"a hole elsewhere":     {func(d driver) { d["/a"] = vdisktest.NewSparse(10 * cell) }, func(n uint32) bool { return n == 8 }, ""},
		"another size":         {func(d driver) { d["/a"].Truncate(11 * cell) }, all, "source-changed"},
		"gone":                 {func(d driver) { delete(d, "/a") }, all, "image-unreadable"},
	} {
		t.Run(name, func(t *testing.T) {
			s, h := frozen(made(), cell)
			p, err := s.plan(t.Context(), h, 0, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			c.move(h.driver.(driver))
			err = s.chosen(t.Context(), h, p, c.pick, func(*flow.Parcel) error { return nil })
			var f *flow.Fault
			if c.code == "" {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.As(err, &f) || f.Code != c.code || f.Class != flow.Park {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestErrorsOfEachPass: what sending says is not taken for a bad image.
func TestErrorsOfEachPass(t *testing.T) {
	m := vdisktest.NewSparse(cell)
	_, _ = m.WriteAt([]byte{1}, 0)
	s, h := frozen(m, cell)
	p, err := s.plan(t.Context(), h, 0, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	lost := fmt.Errorf("the queue is gone")
	if err := s.chosen(t.Context(), h, p, all, func(*flow.Parcel) error { return lost }); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
	var f *flow.Fault
	if errors.As(err, &f) {
		t.Errorf("it became the fault %v", f)
	}
}
