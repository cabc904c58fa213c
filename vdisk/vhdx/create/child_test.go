package create_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

// layer is a merged disk, and a map of which sectors are not the parent's.
type layer struct {
	*vdisktest.Sparse
	own []vdisk.Extent // in order, apart
}

func (l layer) Own(_ context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		off := from
		for _, e := range append(l.own[:len(l.own):len(l.own)], vdisk.Extent{Offset: to}) {
			if !yield(vdisk.Extent{Offset: off, Length: e.Offset - off, Kind: vdisk.Inherited}, nil) || !yield(e, nil) {
				return
			}
			off = e.End()
		}
	})
}

// childOf makes a layer on a disk: data, zeros, whole blocks of either, single
// sectors, around borders of blocks and chunks.
func childOf(t *testing.T, parent *vdisktest.Sparse, size, block, sector int64) layer {
	t.Helper()
	l := layer{Sparse: vdisktest.NewSparse(size)}
	for e, err := range parent.Extents(t.Context(), 0, parent.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if b := make([]byte, min(e.Length, 64*mib)*int64(1-min(e.Kind, 1))); e.Kind == vdisk.Data && e.Offset < size {
			if _, err := parent.ReadAt(b, e.Offset); err != nil && e.End() != parent.Size() {
				t.Fatal(err)
			}
			_, _ = l.WriteAt(b[:min(e.Length, size-e.Offset)], e.Offset)
		}
	}
	chunk := sector << 23
	put := func(off, n int64, kind vdisk.Kind) {
		off, n = off/sector*sector, n/sector*sector
		if k := len(l.own); off < 0 || k > 0 && off < l.own[k-1].End() {
			return
		}
		if n = min(n, size-off); n <= 0 {
			return
		}
		b := make([]byte, n)
		if kind == vdisk.Data {
			rnd := rand.NewChaCha8([32]byte{byte(off), byte(off >> 20)})
			_, _ = rnd.Read(b)
		}
		_, _ = l.WriteAt(b, off)
		l.own = append(l.own, vdisk.Extent{Offset: off, Length: n, Kind: kind})
	}
	put(0, sector, vdisk.Data)
	put(block-2*sector, 3*sector, vdisk.Data)
	put(block+9*sector, 64*sector, vdisk.Zero)
	put(2*block, block, vdisk.Data)
	put(3*block, block, vdisk.Zero)
	put(4*block, block/2, vdisk.Data)
	put(4*block+block/2, block/2, vdisk.Zero)
	put(5*block+block/2, block, vdisk.Zero)
	put(chunk-block-4*sector, 8*sector, vdisk.Data)
	put(chunk-sector, 7*sector, vdisk.Data)
	put(2*chunk+block, block+sector, vdisk.Data)
	put(size-sector, sector, vdisk.Data)
	return l
}

func TestChild(t *testing.T) {
	for _, c := range []struct{ size, more, block, sector int64 }{
		{9 * mib, 0, mib, 512},
		{9*mib + 512, 0, 2 * mib, 512},
		{9*mib + 4096, 0, mib, 4096},
		{13 * mib, 4*mib + 512, 2 * mib, 512},  // larger than its parent
		{13 * mib, -2*mib - 512, 2 * mib, 512}, // smaller
		{9<<30 + 512, 0, 2 * mib, 512},         // more than two chunks
		{70 << 30, 0, 32 * mib, 4096},          // the same with large sectors
		{9 << 30, 5 << 30, 256 * mib, 512},     // 16 blocks a chunk
		{64 * tib, 0, 256 * mib, 512},          // as large as they get
		{64*tib - 4096, 0, 32 * mib, 4096},     // and not a multiple of anything
		{20 * mib, 0, 256 * mib, 512},          // one block
	} {
		t.Run(fmt.Sprintf("%d%+d-%dM-%d", c.size, c.more, c.block/mib, c.sector), func(t *testing.T) {
			base := scattered(t, c.size, c.block, c.sector)
			f := vdisktest.NewTape()
			if err := create.Disk(t.Context(), f, base, create.Options{LogicalSector: int(c.sector)}); err != nil {
				t.Fatal(err)
			}
			parent, err := vhdx.Open(f.Sparse, nil)
			if err != nil {
				t.Fatal(err)
			}
			l, g := childOf(t, base, c.size+c.more, c.block, c.sector), vdisktest.NewTape()
			where := create.Parent{Info: parent.Info(), Relative: `..\base.vhdx`, Absolute: `\\?\C:\vm\base.vhdx`}
			if err := create.Child(t.Context(), g, l, where, create.Options{BlockSize: c.block}); err != nil {
				t.Fatal(err)
			}
			var asked vdisk.Parent
			child, err := vhdx.Open(g.Sparse, func(p vdisk.Parent) (vdisk.Image, error) { asked = p; return parent, nil })
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Check(t.Context()); err != nil {
				t.Error(err)
			}
			if len(asked.Links) != 1 || asked.Links[0] != parent.Info().Link || len(asked.Paths) != 2 || asked.Paths[0].Path != where.Relative {
				t.Errorf("asked for %+v", asked)
			}
			if i := child.Info(); i.Variant != "differencing" || i.DiskID != parent.Info().DiskID || i.Link == parent.Info().Link {
				t.Errorf("info %+v", i)
			}
			vdisktest.Run(t, child, l.Sparse)
			sameOwn(t, child, l)
		})
	}
}

// sameOwn compares what two layers say is not the parent's; what of it is zero
// may differ.
func sameOwn(t *testing.T, a, b create.Layer) {
	t.Helper()
	flat := func(l create.Layer) (out []vdisk.Extent) {
		for e, err := range l.Own(t.Context(), 0, l.Size()) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == vdisk.Zero {
				e.Kind = vdisk.Data
			}
			if n := len(out); n > 0 && out[n-1].Kind == e.Kind {
				out[n-1].Length += e.Length
			} else {
				out = append(out, e)
			}
		}
		return out
	}
	if x, y := flat(a), flat(b); fmt.Sprint(x) != fmt.Sprint(y) {
		t.Errorf("own parts %v; want %v", x, y)
	}
}

func TestChildRefused(t *testing.T) {
	good := create.Parent{Info: vdisk.Info{Format: "vhdx", LogicalSector: 512, DiskID: "01234567-89ab-cdef-0123-456789abcdef", Link: "01234567-89ab-cdef-0123-456789abcdef"}, Relative: `.\b.vhdx`}
	for name, spoil := range map[string]func(*create.Parent){
		"":        func(*create.Parent) {},
		"format":  func(p *create.Parent) { p.Info.Format = "raw" },
		"link":    func(p *create.Parent) { p.Info.Link = "" },
		"no path": func(p *create.Parent) { p.Relative = "" },
	} {
		p := good
		spoil(&p)
		err := create.Child(t.Context(), vdisktest.NewTape(), create.Nothing(mib), p, create.Options{})
		if (name == "") != (err == nil) || err != nil && !errors.Is(err, vdisk.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l := layer{vdisktest.NewSparse(mib), []vdisk.Extent{{Offset: 100, Length: 412}}}
	if err := create.Child(t.Context(), vdisktest.NewTape(), l, good, create.Options{}); !errors.Is(err, vdisk.ErrUnsupported) {
		t.Errorf("own bytes that are no sectors: %v", err)
	}
}
