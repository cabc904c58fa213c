package vdisktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
)

// Maker is a format that can create images.
type Maker struct {
	Create func(ctx context.Context, f vdisk.File, from vdisk.Image) error
	Open   func(file vdisk.Image) (vdisk.Image, error)
	// Begin starts an image that takes its data in any order, and finish ends it.
	Begin func(f vdisk.File, size int64) (w io.WriterAt, finish func() error, err error)
}

// RunCreate holds a format to what a vdisk.File that becomes an image is
// promised: the disk comes back, in whatever order it was written; a file that
// a crash left is refused or whole; errors of the file come back, and nothing is
// written after one. Disks with a few MiB of data do.
func RunCreate(t *testing.T, m Maker, disk *Sparse) {
	t.Helper()
	t.Run("comes back", func(t *testing.T) {
		f := NewTape()
		if err := m.Create(t.Context(), f, disk); err != nil {
			t.Fatal(err)
		}
		image, err := m.Open(f.Sparse)
		if err != nil {
			t.Fatal(err)
		}
		Run(t, image, disk)
	})
	t.Run("any order", func(t *testing.T) { testAnyOrder(t, m, disk) })
	t.Run("power loss", func(t *testing.T) { testPowerLoss(t, m, disk) })
	t.Run("errors", func(t *testing.T) { testCreateFails(t, m, disk) })
}

// Tape is a vdisk.File in memory that keeps what was done to it.
type Tape struct {
	*Sparse
	mu   sync.Mutex // guards all below, and growing
	done []effect
	fail int // the number of the effect that fails; 0: none
}

// effect is a write, or a sync when b is nil.
type effect struct {
	off int64
	b   []byte
}

var errTape = errors.New("tape is torn")

// NewTape returns an empty file.
func NewTape() *Tape { return &Tape{Sparse: NewSparse(0)} }

func (f *Tape) record(e effect) error {
	if f.done = append(f.done, e); len(f.done) == f.fail {
		return errTape
	}
	return nil
}

// Sync is vdisk.File's.
func (f *Tape) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.record(effect{})
}

// WriteAt is io.WriterAt; the file grows.
func (f *Tape) WriteAt(b []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.record(effect{off, bytes.Clone(b)}); err != nil {
		return 0, err
	}
	f.Truncate(max(f.Size(), off+int64(len(b))))
	return f.Sparse.WriteAt(b, off)
}

// testAnyOrder writes the disk's data in pieces that are in no order, from
// several goroutines.
func testAnyOrder(t *testing.T, m Maker, disk *Sparse) {
	rnd := rand.New(rand.NewPCG(3, 0))
	var pieces []vdisk.Extent
	for e, err := range disk.Extents(t.Context(), 0, disk.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		for off := e.Offset; e.Kind == vdisk.Data && off < e.End(); {
			n := min(e.End()-off, 1+rnd.Int64N(1<<18))
			pieces = append(pieces, vdisk.Extent{Offset: off, Length: n})
			off += n
		}
	}
	rnd.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
	f := NewTape()
	w, finish, err := m.Begin(f, disk.Size())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := n; i < len(pieces); i += 4 {
				p := make([]byte, pieces[i].Length)
				_, err := disk.ReadAt(p, pieces[i].Offset)
				if err == nil || errors.Is(err, io.EOF) {
					_, err = w.WriteAt(p, pieces[i].Offset)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, r := range [][2]int64{{-1, 1}, {disk.Size(), 1}, {disk.Size() - 1, 2}, {disk.Size() + 1<<40, 1}} {
		if n, err := w.WriteAt(make([]byte, r[1]), r[0]); err == nil || n > 0 {
			t.Errorf("write %d bytes at %d of %d: %d, %v", r[1], r[0], disk.Size(), n, err)
		}
	}
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	image, err := m.Open(f.Sparse)
	if err != nil {
		t.Fatal(err)
	}
	Run(t, image, disk)
}

// testPowerLoss cuts the power at any moment, and keeps half of what was not
// synced: the file is refused or is whole.
func testPowerLoss(t *testing.T, m Maker, disk *Sparse) {
	f := NewTape()
	if err := m.Create(t.Context(), f, disk); err != nil {
		t.Fatal(err)
	}
	const rounds = 400
	rnd, whole := rand.New(rand.NewPCG(1, 2)), 0
	for round := range rounds {
		cut := rnd.IntN(len(f.done) + 1)
		if round < 60 {
			cut = len(f.done) - min(round, len(f.done)) // the end is where it matters
		}
		image, err := m.Open(survivors(f.done[:cut], rnd))
		if err != nil {
			continue
		}
		whole++
		if image.Size() != disk.Size() {
			t.Fatalf("after %d of %d effects the disk has %d bytes", cut, len(f.done), image.Size())
		}
		for e, err := range disk.Extents(t.Context(), 0, disk.Size()) {
			if err == nil && e.Kind == vdisk.Data {
				err = Equal(image, disk, e.Offset, e.End())
			}
			if err != nil {
				t.Fatalf("after %d of %d effects: %v", cut, len(f.done), err)
			}
		}
	}
	if whole == 0 || whole == rounds {
		t.Errorf("%d of %d files were whole: the test looks at nothing", whole, rounds)
	}
}

// survivors is a file with all that was synced and half of what was not.
func survivors(done []effect, rnd *rand.Rand) *Sparse {
	synced := 0
	for i, e := range done {
		if e.b == nil {
			synced = i
		}
	}
	out := NewSparse(0)
	for i, e := range done {
		if e.b != nil && (i < synced || rnd.IntN(2) == 0) {
			out.Truncate(max(out.Size(), e.off+int64(len(e.b))))
			_, _ = out.WriteAt(e.b, e.off) // inside the size
		}
	}
	return out
}

func testCreateFails(t *testing.T, m Maker, disk *Sparse) {
	whole := NewTape()
	if err := m.Create(t.Context(), whole, disk); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole.done); n += 1 + len(whole.done)/50 {
		f := NewTape()
		f.fail = n + 1
		if err := m.Create(t.Context(), f, disk); !errors.Is(err, errTape) || len(f.done) != n+1 {
			t.Errorf("effect %d of %d fails: %v, %d effects", n, len(whole.done), err, len(f.done))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Create(ctx, NewTape(), disk); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := m.Create(t.Context(), NewTape(), short{disk}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("source that ends early: %v", err)
	}
	used := NewTape()
	used.Truncate(1)
	if err := m.Create(t.Context(), used, disk); !errors.Is(err, fs.ErrExist) || len(used.done) != 0 {
		t.Errorf("file that is not empty: %v", err)
	}
}

// short is a disk that promises more than it has.
type short struct{ *Sparse }

func (s short) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > min(4<<20, s.Size()/2) {
		return 0, io.EOF
	}
	return s.Sparse.ReadAt(p, off)
}

func (s short) Extents(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) { yield(vdisk.Extent{Offset: from, Length: to - from}, nil) }
}

// Scattered is a disk of zeros with data here and there: at both ends, around
// multiples of the given steps, and zeros that were written.
func Scattered(size int64, steps ...int64) *Sparse {
	disk := NewSparse(size)
	rnd := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	put := func(off, n int64) {
		off = max(0, off)
		if off >= size {
			return
		}
		b := make([]byte, min(n, size-off))
		_, _ = rnd.Read(b)          // never fails
		_, _ = disk.WriteAt(b, off) // inside the size
	}
	put(0, 700)
	put(size-100, 100)
	for _, s := range steps {
		for _, n := range []int64{1, 2, 3, 5} {
			put(n*s-3000, 9000)
			put(n*s+s/3, 5000)
		}
		if 4*s+s/2+20000 < size {
			_, _ = disk.WriteAt(make([]byte, 20000), 4*s+s/2)
		}
	}
	return disk
}
