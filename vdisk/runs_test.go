package vdisk_test

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// Runs that lie in the file take its holes over, in the places of the disk.
func TestRuns(t *testing.T) {
	file := vdisktest.NewSparse(64 << 10)
	if _, err := file.WriteAt(make([]byte, 8<<10), 40<<10); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	next := func(off, to int64) (vdisk.Run, error) {
		switch {
		case off < 16<<10:
			return vdisk.Run{Kind: vdisk.Inherited, Length: min(4<<10, to-off)}, nil
		case off < 48<<10:
			return vdisk.Run{Stored: true, At: off + 16<<10, Length: min(32<<10, to-off)}, nil
		case off < 52<<10:
			return vdisk.Run{Kind: vdisk.Data, Length: min(4<<10, to-off)}, nil
		}
		return vdisk.Run{}, broken
	}
	got, err := vdisktest.Collect(vdisk.Runs(t.Context(), file, 60<<10, 0, 60<<10, next))
	want := []vdisk.Extent{{0, 16 << 10, vdisk.Inherited}, {16 << 10, 8 << 10, vdisk.Zero}, {24 << 10, 8 << 10, vdisk.Data}, {32 << 10, 16 << 10, vdisk.Zero}, {48 << 10, 4 << 10, vdisk.Data}}
	if !errors.Is(err, broken) || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for n := range want {
		for range vdisk.Runs(t.Context(), file, 60<<10, 0, 60<<10, next) {
			if n--; n < 0 {
				break // an iterator that yields again after this panics
			}
		}
	}
}

// asked counts how often it is asked for extents, and how much of them is looked at.
type asked struct {
	vdisk.Image
	times int
	far   int64
}

func (a *asked) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	a.times++
	a.far = max(a.far, to)
	return a.Image.Extents(ctx, from, to)
}

// An extent of the image below is asked for once, not once for each of the blocks that
// lie in it; and of a small part of a disk no more is asked for than that part.
func TestAskedOnce(t *testing.T) {
	const block, blocks = 4 << 10, 1000
	full := vdisktest.NewSparse(blocks * block)
	for n := range int64(blocks) { // data but for the last tenth
		if n < blocks*9/10 {
			if _, err := full.WriteAt(make([]byte, block), n*block); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := &asked{Image: full}
	next := func(off, to int64) (vdisk.Run, error) {
		return vdisk.Run{Stored: true, At: off, Length: min(block, to-off)}, nil
	}
	want := []vdisk.Extent{{0, blocks * 9 / 10 * block, vdisk.Data}, {blocks * 9 / 10 * block, blocks / 10 * block, vdisk.Zero}}
	got, err := vdisktest.Collect(vdisk.Runs(t.Context(), file, blocks*block, 0, blocks*block, next))
	if err != nil || !reflect.DeepEqual(got, want) || file.times > 3 {
		t.Errorf("%v, %v, asked %d times; want %v", got, err, file.times, want)
	}
	child := func(yield func(vdisk.Extent, error) bool) {
		for n := range int64(blocks) {
			kind := vdisk.Inherited
			if n%2 == 0 {
				kind = vdisk.Zero
			}
			if !yield(vdisk.Extent{Offset: n * block, Length: block, Kind: kind}, nil) {
				return
			}
		}
	}
	file.times = 0
	if got, err = vdisktest.Collect(vdisk.Beneath(t.Context(), child, file, blocks*block)); err != nil || len(got) != blocks*9/10+1 || file.times > 3 {
		t.Errorf("%d extents, %v, asked %d times", len(got), err, file.times)
	}
	file.far = 0
	one := sequence([]vdisk.Extent{{block, block, vdisk.Inherited}}, nil)
	if got, err = vdisktest.Collect(vdisk.Beneath(t.Context(), one, file, 2*block)); err != nil || len(got) != 1 || file.far != 2*block {
		t.Errorf("%v, %v, asked up to %d for one block", got, err, file.far)
	}
	file.far = 0
	if _, err = vdisktest.Collect(vdisk.Runs(t.Context(), file, blocks*block, block, 2*block, next)); err != nil || file.far != 2*block {
		t.Errorf("%v, asked up to %d for one block", err, file.far)
	}
}

func TestReadFull(t *testing.T) {
	file := vdisktest.FromBytes([]byte("0123456789"))
	p := make([]byte, 4)
	if err := vdisk.ReadFull(file, p, 6); err != nil || string(p) != "6789" {
		t.Errorf("%q, %v", p, err)
	}
	if err := vdisk.ReadFull(file, p, 7); !errors.Is(err, vdisk.ErrTruncated) {
		t.Errorf("across the end: %v", err)
	}
}
