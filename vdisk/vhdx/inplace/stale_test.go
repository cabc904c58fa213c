package inplace_test

import (
	"bytes"
	"context"
	"io"
	"iter"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/inplace"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

// oneSector is a layer that has one sector of its own, the rest is its parent's.
type oneSector struct{ size, at int64 }

func (o oneSector) Size() int64 { return o.size }

func (o oneSector) ReadAt(p []byte, off int64) (int, error) {
	copy(p, bytes.Repeat([]byte{0x11}, len(p)))
	return len(p), nil
}

func (o oneSector) Own(context.Context, int64, int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		_ = yield(vdisk.Extent{Offset: 0, Length: o.at, Kind: vdisk.Inherited}, nil) &&
			yield(vdisk.Extent{Offset: o.at, Length: 512, Kind: vdisk.Data}, nil) &&
			yield(vdisk.Extent{Offset: o.at + 512, Length: o.size - o.at - 512, Kind: vdisk.Inherited}, nil)
	}
}

// The sectors of a partially present block that are the parent's may hold anything in the
// child's file. A write that makes the block fully present makes them what the parent
// has, zeros too.
func TestStaleSectorsOfAPartialBlock(t *testing.T) {
	below := vdisktest.NewTape()
	base := vdisktest.NewSparse(4 * mib)
	_, _ = base.WriteAt(bytes.Repeat([]byte{0x22}, 4096), 64<<10) // the rest of the parent is zero
	if err := create.Disk(t.Context(), below, base, create.Options{BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	parent, err := vhdx.Open(below.Sparse, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := crashfile.New()
	if err := create.Child(t.Context(), f, oneSector{4 * mib, 8192}, create.Parent{Info: parent.Info(), Relative: "x"}, create.Options{BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	e := entryOf(t, f, 0)
	if e&7 != layout.PartiallyPresent {
		t.Fatalf("block 0 is %x", e)
	}
	at := int64(e &^ (1<<20 - 1))
	for off := int64(0); off < mib; off += 512 {
		if off != 8192 {
			_, _ = f.WriteAt(bytes.Repeat([]byte{0xEE}, 512), at+off) // what another disk had there
		}
	}
	want := vdisktest.NewSparse(4 * mib)
	_, _ = want.WriteAt(bytes.Repeat([]byte{0x22}, 4096), 64<<10)
	_, _ = want.WriteAt(bytes.Repeat([]byte{0x11}, 512), 8192)
	_, _ = want.WriteAt(bytes.Repeat([]byte{0x33}, 512), 256<<10)
	d, err := inplace.Open(t.Context(), f, f, inplace.Options{Find: func(vdisk.Parent) (vdisk.Image, error) { return parent, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(bytes.Repeat([]byte{0x33}, 512), 256<<10); err != nil {
		t.Fatal(err)
	}
	vdisktest.Run(t, d, want)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	same(t, f, parent, want)
}

// QEMU ends a file where the disk ends, inside its last block. What is put behind it goes
// behind that block, all of which is the disk's.
func TestLastBlockIsCut(t *testing.T) {
	size := int64(6*mib + 64<<10)
	want := vdisktest.NewSparse(size)
	_, _ = want.WriteAt(bytes.Repeat([]byte{0x44}, 64<<10), 6*mib)
	f := crashfile.New()
	if err := create.Disk(t.Context(), f, want, create.Options{BlockSize: 2 * mib}); err != nil {
		t.Fatal(err)
	}
	at := int64(entryOf(t, f, 3) &^ (mib - 1))
	if err := f.Truncate(at + 64<<10); err != nil {
		t.Fatal(err)
	}
	d, err := inplace.Open(t.Context(), f, f, inplace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(bytes.Repeat([]byte{0x55}, 4096), 2*mib); err != nil {
		t.Fatal(err)
	}
	_, _ = want.WriteAt(bytes.Repeat([]byte{0x55}, 4096), 2*mib)
	if _, err := d.WriteAt(bytes.Repeat([]byte{0x66}, 512), size-512); err != nil {
		t.Fatal(err)
	}
	_, _ = want.WriteAt(bytes.Repeat([]byte{0x66}, 512), size-512)
	vdisktest.Run(t, d, want)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if one := int64(entryOf(t, f, 1) &^ (mib - 1)); one < at+2*mib {
		t.Errorf("block 1 is at %d, inside the last block at %d", one, at)
	}
	same(t, f, nil, want)
}

// same wants the strict reader to find the file in order, and to read what is wanted.
func same(t *testing.T, f *crashfile.File, parent io.ReaderAt, want *vdisktest.Sparse) {
	t.Helper()
	d, err := strict.Open(f, f.Size(), parent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Read(0, want.Size())
	if err != nil {
		t.Fatal(err)
	}
	wanted := make([]byte, want.Size())
	_, _ = want.ReadAt(wanted, 0)
	if !bytes.Equal(got, wanted) {
		t.Error("the strict reader reads something else")
	}
}

// Whatever of the headers is lost or torn by a power cut, one of the two is always whole:
// the second is not begun before the first is durable.
func TestOneHeaderIsAlwaysWhole(t *testing.T) {
	f, d := begin(t, vdisktest.NewSparse(4*mib), create.Options{BlockSize: mib})
	d.Close()
	seed, cuts := uint64(0), 0
	f.Hook = func() {
		for range 3000 {
			seed++
			if _, err := layout.ReadHeader(f.Crash(crashfile.Random, seed)); err != nil {
				t.Errorf("cut %d: %v", cuts, err)
				f.Hook = nil
				return
			}
		}
		cuts++
	}
	d, err := inplace.Open(t.Context(), f, f, inplace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("x"), mib); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if cuts < 8 {
		t.Errorf("%d cuts", cuts)
	}
}
