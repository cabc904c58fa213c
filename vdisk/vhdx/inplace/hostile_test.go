package inplace_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/inplace"
	"github.com/millrace-backup/millrace/vdisk/vhdx/journal"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

const tableAt = 3 * mib // of images that create makes

func entryOf(t *testing.T, f *crashfile.File, block int64) uint64 {
	t.Helper()
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, tableAt+8*block); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(b)
}

func setEntry(f *crashfile.File, block int64, e uint64) {
	_, _ = f.WriteAt(binary.LittleEndian.AppendUint64(nil, e), tableAt+8*block) // never fails
}

// header changes both headers of a file.
func header(t *testing.T, f *crashfile.File, change func(h *layout.Header)) {
	t.Helper()
	h, err := layout.ReadHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	change(&h)
	for _, at := range []int64{layout.HeaderAt1, layout.HeaderAt2} {
		_, _ = f.WriteAt(h.Bytes(), at) // never fails
	}
}

// pend leaves an entry in the log of a file.
func pend(t *testing.T, f *crashfile.File, e journal.Entry) {
	t.Helper()
	header(t, f, func(h *layout.Header) { h.LogGUID = layout.GUID{7} })
	e.GUID, e.Sequence = layout.GUID{7}, 1
	_, _ = f.WriteAt(e.Bytes(), mib) // never fails
}

// A block that is not present may keep its place. Nothing else gets it, and the
// bytes there are still the block's.
func TestPlacesOfAbsentBlocks(t *testing.T) {
	for _, state := range []uint64{layout.Undefined, layout.Unmapped, layout.UnmappedOld} {
		want := vdisktest.NewSparse(12*mib + 512)
		for i := range int64(13) {
			_, _ = want.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 512), i*mib)
		}
		f, d := begin(t, want, create.Options{BlockSize: mib})
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		was := map[int64]uint64{}
		for _, b := range []int64{1, 2, 5, 12} {
			was[b] = entryOf(t, f, b)
			setEntry(f, b, was[b]&^layout.StateMask|state)
		}
		setEntry(f, 7, 0)
		setEntry(f, 8, 0) // these places are free
		d = reopen(t, f)
		for _, b := range []int64{7, 8, 2} {
			if _, err := d.WriteAt(bytes.Repeat([]byte{0xEE}, mib), b*mib); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if state != layout.UnmappedOld {
			sound(t, f)
		}
		for _, b := range []int64{1, 5, 12} {
			if got := entryOf(t, f, b); got != was[b]&^layout.StateMask|state {
				t.Errorf("state %d: block %d has entry %#x, it had %#x", state, b, got, was[b])
			}
			setEntry(f, b, was[b])
		}
		sound(t, f)
		p := make([]byte, 512)
		for _, b := range []int64{1, 5, 12} {
			if _, err := reopen(t, f).ReadAt(p, b*mib); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{byte(b + 1)}, 512)) {
				t.Errorf("state %d: block %d has %x..., %v", state, b, p[:4], err)
			}
		}
	}
}

// A place that an absent block names, and that is another block's, does no harm
// here; a writer may not leave such a thing behind.
func TestSharedPlaceOfAnAbsentBlock(t *testing.T) {
	want := vdisktest.NewSparse(8 * mib)
	_, _ = want.WriteAt([]byte("x"), 3*mib)
	f, d := begin(t, want, create.Options{BlockSize: mib})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	setEntry(f, 0, entryOf(t, f, 3)&^layout.StateMask|layout.Unmapped)
	vdisktest.Run(t, reopen(t, f), want)
	if _, err := strict.Open(f, f.Size(), nil); err == nil || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("the strict reader: %v", err)
	}
}

// Zero means zeros in every reader: an unmapped block may read as anything.
func TestZeroOfUnmapped(t *testing.T) {
	f, d := begin(t, vdisktest.NewSparse(8*mib), create.Options{BlockSize: mib})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for b := range int64(4) {
		setEntry(f, b, layout.Unmapped)
	}
	d = reopen(t, f)
	if err := errors.Join(d.Zero(0, mib), d.Zero(mib+512, 512), d.Trim(2*mib, mib), d.Close()); err != nil {
		t.Fatal(err)
	}
	for b, state := range []uint64{layout.Zero, layout.FullyPresent, layout.Unmapped, layout.Unmapped} {
		if got := entryOf(t, f, int64(b)) & layout.StateMask; got != state {
			t.Errorf("block %d has state %d, want %d", b, got, state)
		}
	}
	sound(t, f)
}

// A child may be larger than its parent, and smaller.
func TestParentOfAnotherSize(t *testing.T) {
	for _, size := range []int64{12*mib + 512, 3*mib + 512} {
		below := vdisktest.NewTape()
		base := vdisktest.NewSparse(5*mib + 1536)
		for off := int64(0); off < base.Size(); off += 512 {
			_, _ = base.WriteAt(bytes.Repeat([]byte{byte(off/512) | 1}, 512), off)
		}
		if err := create.Disk(t.Context(), below, base, create.Options{BlockSize: mib}); err != nil {
			t.Fatal(err)
		}
		parent, err := vhdx.Open(below.Sparse, nil)
		if err != nil {
			t.Fatal(err)
		}
		f, find := crashfile.New(), func(vdisk.Parent) (vdisk.Image, error) { return parent, nil }
		if err := create.Child(t.Context(), f, create.Nothing(size), create.Parent{Info: parent.Info(), Relative: "x"}, create.Options{BlockSize: mib}); err != nil {
			t.Fatal(err)
		}
		want := vdisktest.NewSparse(size)
		p := make([]byte, min(size, base.Size()))
		_, _ = base.ReadAt(p, 0)
		_, _ = want.WriteAt(p, 0)
		for range 2 {
			d, err := inplace.Open(t.Context(), f, f, inplace.Options{Find: find})
			if err != nil {
				t.Fatal(err)
			}
			for _, off := range []int64{512, 2*mib - 512, 5*mib + 512, 5*mib + 4096, 7*mib + 512, 9 * mib, 12 * mib} {
				b := bytes.Repeat([]byte{0xAB}, 512)
				if off+512 > size {
					continue
				}
				if _, err := d.WriteAt(b, off); err != nil {
					t.Fatalf("write at %d of %d over a parent of %d: %v", off, size, base.Size(), err)
				}
				_, _ = want.WriteAt(b, off)
			}
			vdisktest.Run(t, d, want)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := strict.Open(f, f.Size(), parent); err != nil {
			t.Error(err)
		}
	}
}

// What is refused is refused before anything is written.
func TestRefusedUntouched(t *testing.T) {
	sector := func(at int64) []journal.Sector {
		return []journal.Sector{{Offset: at, Bytes: make([]byte, layout.SectorSize)}}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, f *crashfile.File)
		err   error
		says  string
	}{
		"nothing": {func(*testing.T, *crashfile.File) {}, nil, ""},
		"version of an empty log": {func(t *testing.T, f *crashfile.File) {
			header(t, f, func(h *layout.Header) { h.LogVersion = 1 })
		}, vdisk.ErrUnsupported, "log version 1"},
		"an empty log of 65 MiB": {func(t *testing.T, f *crashfile.File) {
			at := f.Size()
			_ = f.Truncate(at + 65*mib)
			header(t, f, func(h *layout.Header) { h.LogOffset, h.LogLength = at, 65*mib })
		}, vdisk.ErrUnsupported, "log of"},
		"no log": {func(t *testing.T, f *crashfile.File) {
			header(t, f, func(h *layout.Header) { h.LogLength = 0 })
		}, vdisk.ErrUnsupported, "no room for a log"},
		"numbers that come to an end": {func(t *testing.T, f *crashfile.File) {
			header(t, f, func(h *layout.Header) { h.Sequence = math.MaxUint64 })
		}, vdisk.ErrUnsupported, "number"},
		"a log that changes headers": {func(t *testing.T, f *crashfile.File) {
			pend(t, f, journal.Entry{Flushed: f.Size(), Last: f.Size(), Sectors: append(sector(tableAt+4096), sector(layout.HeaderAt1)...)})
		}, vdisk.ErrFormat, "changes headers"},
		"a log that changes itself": {func(t *testing.T, f *crashfile.File) {
			pend(t, f, journal.Entry{Flushed: f.Size(), Last: f.Size(), Sectors: sector(mib + 64<<10)})
		}, vdisk.ErrFormat, "or itself"},
		"a log that makes the file too large": {func(t *testing.T, f *crashfile.File) {
			pend(t, f, journal.Entry{Flushed: f.Size(), Last: 100 << 40, Sectors: sector(tableAt + 4096)})
		}, vdisk.ErrUnsupported, "makes a file"},
		"a change far behind the end": {func(t *testing.T, f *crashfile.File) {
			pend(t, f, journal.Entry{Flushed: f.Size(), Last: f.Size(), Sectors: sector(100 << 40)})
		}, vdisk.ErrUnsupported, "makes a file"},
		"a change behind the end": {func(t *testing.T, f *crashfile.File) {
			pend(t, f, journal.Entry{Flushed: f.Size(), Last: f.Size() + mib, Sectors: sector(f.Size())})
		}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, d := begin(t, vdisktest.NewSparse(8*mib), create.Options{BlockSize: mib})
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, f)
			before := f.Effects()
			d, err := inplace.Open(t.Context(), f, f, inplace.Options{})
			if !errors.Is(err, c.err) || err != nil && (!strings.Contains(err.Error(), c.says) || f.Effects() != before) {
				t.Fatalf("%v after %d effects; want %v about %q after none", err, f.Effects()-before, c.err, c.says)
			}
			if err == nil {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
				sound(t, f)
			}
		})
	}
}

// The id of the file is new whenever it was written to, that of its content only if
// the disk was; who only looks changes neither.
func TestIDs(t *testing.T) {
	f, d := begin(t, vdisktest.NewSparse(8*mib), create.Options{BlockSize: mib})
	last := sound(t, f)
	differ := func(what string, file, data bool) {
		t.Helper()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		s := sound(t, f)
		if s.FileWrite != last.FileWrite != file || s.DataWrite != last.DataWrite != data {
			t.Errorf("%s: the file's id is new: %v, the data's: %v", what, s.FileWrite != last.FileWrite, s.DataWrite != last.DataWrite)
		}
		last = s
	}
	if _, err := d.ReadAt(make([]byte, 100), 0); err != nil {
		t.Fatal(err)
	}
	differ("read", false, false)
	d = reopen(t, f)
	if _, err := d.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	differ("written", true, true)
	pend(t, f, journal.Entry{Flushed: f.Size(), Last: f.Size(), Sectors: []journal.Sector{{Offset: tableAt + 8192, Bytes: make([]byte, 4096)}}})
	d = reopen(t, f)
	differ("replayed", true, false)
	d = reopen(t, f)
	if err := d.Trim(0, mib); err != nil {
		t.Fatal(err)
	}
	differ("trimmed", true, true)
}

// Of two writers of one file the second is refused, until the first has closed it.
func TestTwoWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.vhdx")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(create.Disk(t.Context(), f, vdisktest.NewSparse(8*mib), create.Options{BlockSize: mib}), f.Close()); err != nil {
		t.Fatal(err)
	}
	for i := range byte(2) {
		d, err := inplace.Path(t.Context(), path, inplace.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if other, err := inplace.Path(t.Context(), path, inplace.Options{}); !errors.Is(err, inplace.ErrInUse) || !strings.Contains(err.Error(), path) {
			t.Errorf("a second writer: %v, %v", other, err)
		}
		got := make([]byte, 1)
		if _, err := d.ReadAt(got, 5*mib); err != nil || got[0] != i {
			t.Errorf("turn %d finds %d, %v", i, got[0], err)
		}
		if _, err := d.WriteAt([]byte{i + 1}, 5*mib); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := inplace.Path(t.Context(), path+"x", inplace.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
