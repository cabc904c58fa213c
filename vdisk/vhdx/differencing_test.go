package vhdx

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

// below is a parent whose every sector of 512 bytes begins with its number.
func below(size int64, from ...int64) *vdisktest.Sparse {
	s := vdisktest.NewSparse(size)
	for _, first := range from {
		for off := first; off < min(size, first+4*mib); off += 512 {
			_, _ = s.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(off/512+1)), off)
		}
	}
	return s
}

func finds(m vdisk.Image) vdisk.FindParent {
	return func(vdisk.Parent) (vdisk.Image, error) { return m, nil }
}

// bitmapAt gives a chunk a sector bitmap and returns where it is.
func (x *built) bitmapAt(chunk int64) int64 {
	at := x.next
	x.next += mib
	x.Truncate(x.next)
	x.write(binary.LittleEndian.AppendUint64(nil, uint64(at)|layout.FullyPresent), testBATAt+8*((chunk+1)*x.ratio+chunk))
	return at
}

// A fixture written by hand from the specification: which bit is which sector.
func TestBitOrder(t *testing.T) {
	// Two chunks of 4,096 blocks; block 4098 is the third of the second chunk.
	x := build(t, draft{diskSize: 4100 * mib, blockSize: mib, parameters: 2})
	parent := below(4100*mib, 4097*mib)
	at := x.next
	x.next += mib
	x.Truncate(x.next)
	x.setEntry(4098, uint64(at)|layout.PartiallyPresent)
	bitmap := x.bitmapAt(1)
	// Its bits begin at 2 × 2,048; low bits are first: sectors 0, 9 and 2047.
	x.write([]byte{0x01, 0x02}, bitmap+2*2048/8)
	x.write([]byte{0x80}, bitmap+3*2048/8-1)
	for _, s := range []int64{0, 1, 9, 2047} { // 1 is in the file and has no bit: an old write that does not count
		x.write([]byte{0xEE}, at+s*512)
	}
	m, err := Open(x.Sparse, finds(parent))
	if err != nil {
		t.Fatal(err)
	}
	want := below(4100*mib, 4097*mib)
	for _, s := range []int64{0, 9, 2047} {
		b := make([]byte, 512)
		b[0] = 0xEE
		_, _ = want.WriteAt(b, 4098*mib+s*512)
	}
	vdisktest.Run(t, m, want)
	judged, err := strict.Open(x.Sparse, x.Size(), parent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := judged.Read(4098*mib-512, mib+1024)
	if err != nil {
		t.Fatal(err)
	}
	if err := vdisktest.Equal(offset{want, 4098*mib - 512}, vdisktest.FromBytes(got), 0, int64(len(got))); err != nil {
		t.Errorf("the strict reader: %v", err)
	}
	own, err := vdisktest.Collect(m.Own(t.Context(), 4098*mib, 4098*mib+8192))
	if err != nil || len(own) != 4 || own[0] != (vdisk.Extent{Offset: 4098 * mib, Length: 512}) || own[1].Kind != vdisk.Inherited || own[2].Offset != 4098*mib+9*512 {
		t.Errorf("own parts %v, %v", own, err)
	}
}

type offset struct {
	vdisk.Image
	by int64
}

func (o offset) ReadAt(p []byte, off int64) (int, error) { return o.Image.ReadAt(p, off+o.by) }

// Which states are the parent's, and which are not.
func TestStatesOverAParent(t *testing.T) {
	for name, c := range map[string]struct {
		entry  uint64 // of block 1; place 0 is replaced by a block of its own where it is needed
		bitmap bool
		here   string // "parent", "zero" or "own"
		err    error
		text   string
	}{
		"not present":                {layout.NotPresent, false, "parent", nil, ""},
		"undefined":                  {layout.Undefined, false, "zero", nil, ""},
		"zero":                       {layout.Zero, false, "zero", nil, ""},
		"zero with a place":          {layout.Zero | 7<<20, false, "zero", nil, ""},
		"unmapped":                   {layout.Unmapped, false, "zero", nil, ""},
		"unmapped, as drafts had it": {layout.UnmappedOld, false, "zero", nil, ""},
		"reserved":                   {4, false, "", vdisk.ErrFormat, "state 4"},
		"fully":                      {layout.FullyPresent, false, "own", nil, ""},
		"fully, bitmap is ignored":   {layout.FullyPresent, true, "own", nil, ""},
		"partially, no bit":          {layout.PartiallyPresent, true, "parent", nil, ""},
		"partially without bitmap":   {layout.PartiallyPresent, false, "", vdisk.ErrFormat, "bitmap of chunk 0 is not present"},
	} {
		t.Run(name, func(t *testing.T) {
			x := build(t, draft{diskSize: 6 * mib, parameters: 2})
			parent := below(6*mib, 2*mib)
			if c.entry == layout.FullyPresent || c.entry == layout.PartiallyPresent {
				at := x.put(1, random(1, 2*mib))
				x.setEntry(1, uint64(at)|c.entry)
			} else {
				x.setEntry(1, c.entry)
			}
			if c.bitmap {
				x.bitmapAt(0)
			}
			want := map[string]vdisk.Image{"parent": parent, "zero": vdisktest.NewSparse(6 * mib), "own": x.want}[c.here]
			m, err := Open(x.Sparse, finds(parent))
			if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Fatalf("open: %v; want %v about %q", err, c.err, c.text)
			}
			if err == nil {
				if err := vdisktest.Equal(m, want, 2*mib, 4*mib); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestParentRefused(t *testing.T) {
	big := build(t, draft{diskSize: 8 * mib, sector: 4096}).check()
	x := build(t, draft{diskSize: 6 * mib, parameters: 2})
	if _, err := Open(x.Sparse, finds(big)); !errors.Is(err, vdisk.ErrFormat) || !strings.Contains(err.Error(), "4096") {
		t.Errorf("sectors of another size: %v", err)
	}
	if _, err := Open(x.Sparse, finds(nil)); !errors.Is(err, vdisk.ErrUnsupported) {
		t.Errorf("a parent that is none: %v", err)
	}
	lost := errors.New("lost")
	if _, err := Open(x.Sparse, func(vdisk.Parent) (vdisk.Image, error) { return nil, lost }); !errors.Is(err, lost) {
		t.Errorf("a parent that is not found: %v", err)
	}
	// The bitmap of the last chunk has an entry, even if it lies behind the last
	// block's: a table of 1 MiB is then too small by 32 entries.
	for parameters, want := range map[uint32]error{0: nil, 2: vdisk.ErrFormat} {
		y := build(t, draft{diskSize: 6 * mib, parameters: parameters})
		y.write(metadataBytes(draft{diskSize: 131_041 * mib, blockSize: mib, sector: 512, parameters: parameters}), testMetaAt)
		if _, err := Open(y.Sparse, finds(below(mib))); !errors.Is(err, want) || err != nil && !strings.Contains(err.Error(), "BAT needs 1048832") {
			t.Errorf("parameters %d: %v; want %v", parameters, err, want)
		}
	}
}

// The bitmap of a chunk has an entry behind the last block's: 2049 entries where a
// dynamic image has 5.
func TestTableLength(t *testing.T) {
	for _, c := range []struct {
		size, block           int64
		dynamic, differencing int64
	}{{10 * mib, 2 * mib, 5, 2049}, {tib, 32 * mib, 33023, 33024}} {
		m := layout.Metadata{DiskSize: c.size, BlockSize: c.block, LogicalSector: 512}
		if got := layout.NewGeometry(m).Length(); got != c.dynamic {
			t.Errorf("%d bytes: %d entries, want %d", c.size, got, c.dynamic)
		}
		m.HasParent = true
		if got := layout.NewGeometry(m).Length(); got != c.differencing {
			t.Errorf("%d bytes with a parent: %d entries, want %d", c.size, got, c.differencing)
		}
	}
	g := layout.NewGeometry(layout.Metadata{DiskSize: tib, BlockSize: 32 * mib, LogicalSector: 512})
	if g.Index(128) != 129 || g.BitmapIndex(0) != 128 || !g.IsBitmap(128) || g.IsBitmap(129) || g.BlockAt(129) != 128 {
		t.Error("block 128 is not at 129, behind the bitmap of chunk 0")
	}
}

// What absent blocks name as their place is not given away.
func TestFreeLeavesPlaces(t *testing.T) {
	x := build(t, draft{diskSize: 20 * mib})
	var at []int64
	for b := range int64(6) {
		at = append(at, x.put(b, []byte("x")))
	}
	for b, state := range []uint64{layout.Undefined, layout.Zero, layout.Unmapped, layout.UnmappedOld, layout.NotPresent} {
		x.setEntry(int64(b), uint64(at[b])|state)
	}
	x.setEntry(5, 0)
	x.setEntry(7, uint64(x.Size()+100*mib)|layout.Unmapped) // behind the end: nobody's
	free, err := x.check().Free(t.Context(), 10)
	if err != nil || len(free) != 1 || free[0] != (vdisk.Extent{Offset: at[5], Length: 2 * mib}) {
		t.Errorf("free %v, %v; want only %d", free, err, at[5])
	}
}
