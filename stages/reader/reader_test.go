package reader

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// TestSlotIsTheImage: whatever was in the slot before, it holds the parcel's
// bytes afterwards, holes as zeros. Only cells that no run touches, where there are
// runs, may be left as they were: chunker looks at none of their bytes.
func TestSlotIsTheImage(t *testing.T) {
	dirt := bytes.Repeat([]byte{0xdb}, 5<<20)
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		p := &flow.Parcel{Number: 2, Length: 1 + rnd.Int64N(1<<(10+rnd.IntN(13)))}
		p.Offset = 2 * p.Length
		m := vdisktest.NewSparse(3*p.Length + rnd.Int64N(4096))
		at := p.Offset
		for range rnd.IntN(6) {
			left := p.Offset + p.Length - at
			if left == 0 {
				break
			}
			r := flow.Run{Offset: at + rnd.Int64N(left)}
			r.Length = 1 + rnd.Int64N(p.Offset+p.Length-r.Offset)
			at = r.Offset + r.Length
			b := make([]byte, r.Length)
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			_, _ = m.WriteAt(b, r.Offset)
			p.Runs = append(p.Runs, r)
		}
		mem, want := bytes.Clone(dirt[:p.Length]), make([]byte, p.Length)
		cell := int64(1) << (10 + rnd.IntN(12))
		if err := fill(m, p, mem, cell); err != nil {
			t.Fatal(err)
		}
		if _, err := m.ReadAt(want, p.Offset); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		for from := int64(0); from < p.Length && len(p.Runs) > 0; from += cell {
			end := min(from+cell, p.Length)
			if !slices.ContainsFunc(p.Runs, func(r flow.Run) bool {
				return r.Offset < p.Offset+end && r.Offset+r.Length > p.Offset+from
			}) {
				clear(mem[from:end])
			}
		}
		if !bytes.Equal(mem, want) {
			t.Fatalf("seed %d: runs %v of %d bytes at %d: the slot differs from the image", seed, p.Runs, p.Length, p.Offset)
		}
	}
}

// counting notes how it is read.
type counting struct {
	size  int64
	reads []int
	fail  int64 // a read that covers this byte fails
}

func (c *counting) ReadAt(b []byte, at int64) (int, error) {
	c.reads = append(c.reads, len(b))
	if c.fail >= at && c.fail < at+int64(len(b)) {
		return int(c.fail - at), errors.New("bad sector")
	}
	n := max(0, min(int64(len(b)), c.size-at))
	if n < int64(len(b)) || at+n == c.size {
		return int(n), io.EOF // allowed with a full read too
	}
	return int(n), nil
}

func TestReads(t *testing.T) {
	for name, c := range map[string]struct {
		size, fail int64
		reads      int
		err        string
	}{
		"to the end of the disk, which says EOF": {5<<19 + 7, -1, 3, ""},
		"the disk is shorter":                    {5 << 19, -1, 3, io.ErrUnexpectedEOF.Error()},
		"a bad sector":                           {8 << 20, 1<<20 + 5, 2, "bad sector"},
	} {
		t.Run(name, func(t *testing.T) {
			im := &counting{size: c.size, fail: c.fail}
			err := readFull(im, make([]byte, 5<<19+7), 0)
			if (err == nil) != (c.err == "") || err != nil && !bytes.Contains([]byte(err.Error()), []byte(c.err)) {
				t.Errorf("got %v", err)
			}
			if len(im.reads) != c.reads || im.reads[0] != readSize {
				t.Errorf("reads %v", im.reads)
			}
		})
	}
}

// TestPaced: readers wait for what they read of the disk, and not for holes.
func TestPaced(t *testing.T) {
	p, err := pace.Open(filepath.Join(t.TempDir(), "pace"), 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	waits := 0
	p.Sleeping = func() func() { waits++; return func() {} }
	im := paced{t.Context(), &counting{size: 1 << 30, fail: -1}, p}
	read := func(runs ...flow.Run) (took time.Duration) {
		begun := time.Now()
		if err := fill(im, &flow.Parcel{Length: 32 << 20, Runs: runs}, make([]byte, 32<<20), 4<<20); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun)
	}
	if read(); waits > 0 {
		t.Error("waited for a hole")
	}
	if took := read(flow.Run{Length: 1 << 20}, flow.Run{Offset: 12 << 20, Length: 5 << 20}); took < 3*time.Second/8 { // 2 at once, and a piece
		t.Errorf("6 MiB at 8 MiB/s in %v", took)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	im.ctx = ctx
	if _, err := im.ReadAt(make([]byte, 4<<20), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that nobody wants: %v", err)
	}
}

type image struct {
	*vdisktest.Sparse
	closed int
}

func (i *image) Close() error { i.closed++; return nil }

// TestRead: a claim on exactly the parcel; faults that say what they do to the job.
func TestRead(t *testing.T) {
	a, err := arena.New(arena.Shape{RawSlots: 1, SealedSlots: 1, RawSize: 64 << 10, SealedSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	w := &flow.Worker{Arena: a, Config: flow.Config{Work: flow.Work{CellSize: 4096, Disks: []flow.WorkDisk{{}, {Info: events.DiskInfo{Path: "/gone"}}}}}}
	im, opened := &image{Sparse: vdisktest.NewSparse(100 << 10)}, 0
	_, _ = im.WriteAt([]byte{7}, 64<<10+9)
	s := &stage{w: w, images: map[uint32]Image{}, open: func(_ context.Context, d flow.WorkDisk) (Image, error) {
		if opened++; d.Info.Path != "" {
			return nil, errors.New("no such file")
		}
		return im, nil
	}}
	slot, _ := a.TryAcquire(arena.Raw, 1)
	give := func(p flow.Parcel) (string, *flow.Parcel, error) {
		return s.read(t.Context(), &flow.Delivery{Message: &flow.Message{Parcel: &p}}, slot)
	}
	for range 2 {
		to, p, err := give(flow.Parcel{Number: 1, Offset: 64 << 10, Length: 36 << 10, Runs: []flow.Run{{Offset: 64 << 10, Length: 4096}}})
		if err != nil || to != flow.Chunker || p.Claim != slot.Claim(36<<10) || len(p.Runs) != 1 || a.Bytes(slot.Number)[9] != 7 {
			t.Errorf("to %q, %+v, %v", to, p, err)
		}
	}
	if opened != 1 {
		t.Errorf("the disk was opened %d times", opened)
	}
	for name, c := range map[string]struct {
		p     flow.Parcel
		class flow.Class
	}{
		"a disk that is gone":    {flow.Parcel{Disk: 1, Length: 1}, flow.Park},
		"a disk the job has not": {flow.Parcel{Disk: 2, Length: 1}, flow.Corrupt},
		"more than a slot":       {flow.Parcel{Length: 64<<10 + 1}, flow.Corrupt},
		"beyond the disk's end":  {flow.Parcel{Offset: 64 << 10, Length: 64 << 10, Runs: []flow.Run{{Offset: 99 << 10, Length: 2 << 10}}}, flow.Park},
	} {
		var f *flow.Fault
		if _, _, err := give(c.p); !errors.As(err, &f) || f.Class != c.class {
			t.Errorf("%s: %v", name, err)
		}
	}
}
