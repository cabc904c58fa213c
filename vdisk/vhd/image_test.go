package vhd_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhd"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
)

func openVHD(t *testing.T, file vdisk.Image, find vdisk.FindParent) *vhd.Image {
	t.Helper()
	m, err := vhd.Open(file, find)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFixed(t *testing.T) {
	for _, size := range []int64{512, 10*mib + 512, 3*mib + 777} {
		for _, short := range []bool{false, true} {
			x := build(t, draft{size: size, kind: 2, short: short, id: 7})
			x.write(random(1, size), 0)
			copyAll(t, x.want, random(1, size))
			m := openVHD(t, x.finish(), nil)
			vdisktest.Run(t, m, x.want)
			if i := m.Info(); i.Variant != "fixed" || i.Link != "07070707-0707-0707-0707-070707070707" || i.DiskID != i.Link || i.BlockSize != 0 {
				t.Errorf("info %+v", i)
			}
		}
	}
}

func copyAll(t *testing.T, to *vdisktest.Sparse, b []byte) {
	t.Helper()
	if _, err := to.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

// fill writes blocks with whole, patchy and empty bitmaps, out of order. In a
// dynamic image a sector without a bit reads as zeros whatever is stored there.
func fill(x *built) *built {
	blocks := (x.size + x.block - 1) / x.block
	for i, n := range []int64{blocks - 1, 0, 2, 3, 5} {
		if n < 0 || n >= blocks || i > 0 && n == blocks-1 {
			continue
		}
		here := []func(int64) bool{always, patchy, func(s int64) bool { return s == 0 || s == 9 }, func(int64) bool { return false }, patchy}[i]
		x.put(n, random(uint64(20+i), x.block), here)
	}
	return x.finish()
}

func TestDynamic(t *testing.T) {
	for _, d := range []draft{
		{size: 512},
		{size: 2 * mib},
		{size: 21*mib + 512},
		{size: 21*mib + 512, short: true},
		{size: 21 * mib, tail: true},
		{size: 3*mib + 1536, block: 512 * kib},
		{size: 3 * mib, block: 64 * kib}, // the bitmap is a part of its sector
		{size: 60 * mib, block: 16 * mib},
		{size: 2040 * gib},
	} {
		x := fill(build(t, d))
		m := openVHD(t, x, nil)
		vdisktest.Run(t, m, x.want)
		if i := m.Info(); i.Variant != "dynamic" || i.BlockSize != x.block || i.VirtualSize != d.size || i.LogicalSector != 512 {
			t.Errorf("info %+v", i)
		}
	}
}

// A footer that is damaged, cut off or of the wrong length is replaced by its
// copy, which only the forms with a dynamic header have.
func TestFooterFromItsCopy(t *testing.T) {
	damage := map[string]func(x *built){
		"flipped bit": func(x *built) { x.write([]byte{1}, x.Size()-1) },
		"overwritten": func(x *built) { x.write(make([]byte, 512), x.Size()-512) },
		"cut off":     func(x *built) { x.Truncate(x.Size() - 512) },
		"half":        func(x *built) { x.Truncate(x.Size() - 200) },
	}
	for name, hurt := range damage {
		x := fill(build(t, draft{size: 21*mib + 512, id: 9}))
		hurt(x)
		m := openVHD(t, x, nil)
		if err := vdisktest.Equal(m, x.want, 0, m.Size()); err != nil || m.Info().DiskID[0] != '0' {
			t.Errorf("%s: %v", name, err)
		}
		y := build(t, draft{size: mib, kind: 2}).finish()
		hurt(y)
		if _, err := vhd.Open(y, nil); !errors.Is(err, vdisk.ErrFormat) {
			t.Errorf("fixed, %s: %v", name, err)
		}
		z := fill(build(t, draft{size: 21 * mib, tail: true}))
		hurt(z)
		if _, err := vhd.Open(z, nil); !errors.Is(err, vdisk.ErrFormat) {
			t.Errorf("without a copy, %s: %v", name, err)
		}
	}
	// The first sector of a fixed disk whose footer is gone may be a footer:
	// of a nested image, which is not this one.
	x := build(t, draft{size: mib, kind: 2})
	x.write(x.footerBytes(), 0)
	x.Truncate(mib)
	if _, err := vhd.Open(x, nil); !errors.Is(err, vdisk.ErrFormat) {
		t.Error(err)
	}
	// And of a nested dynamic image inside a fixed one the outer counts.
	y := build(t, draft{size: 30 * mib, kind: 2}).finish()
	inner := fill(build(t, draft{size: 21 * mib}))
	p := make([]byte, inner.Size())
	if _, err := inner.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	y.write(p[:min(int64(len(p)), 30*mib)], 0)
	if m := openVHD(t, y, nil); m.Info().Variant != "fixed" || m.Size() != 30*mib {
		t.Errorf("%+v", m.Info())
	}
}

// The creator says whether the size in bytes or the geometry counts.
func TestSizeRule(t *testing.T) {
	chs := [4]byte{1003 >> 8, 1003 & 0xFF, 12, 17} // 104,755,... a little below 100 MiB
	const bytes, geometry = 100 * int64(1<<20), 1003 * 12 * 17 * 512
	for _, c := range []struct {
		creator string
		chs     [4]byte
		want    int64
	}{
		{"win ", chs, bytes}, {"d2v ", chs, bytes}, {"qem2", chs, bytes}, {"tap\x00", chs, bytes}, {"CTXS", chs, bytes},
		{"vpc ", chs, geometry}, {"vs  ", chs, geometry}, {"qemu", chs, geometry}, {"    ", chs, bytes}, {"vbox", chs, bytes},
		{"vpc ", [4]byte{0xFF, 0xFF, 16, 255}, bytes},
		{"vpc ", [4]byte{}, bytes},
		{"qemu", [4]byte{0xFF, 0xFF, 16, 255}, bytes},
	} {
		for _, kind := range []uint32{2, 3} {
			x := build(t, draft{size: bytes, creator: c.creator, chs: c.chs, kind: kind}).finish()
			if m := openVHD(t, x, nil); m.Size() != c.want {
				t.Errorf("creator %q, geometry %v, type %d: %d bytes, want %d", c.creator, c.chs, kind, m.Size(), c.want)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	dynamic := func(d draft) *built { d.size = 21 * mib; return fill(build(t, d)) }
	changed := func(f func(x *built)) *built { x := dynamic(draft{}); f(x); return x }
	for _, c := range []struct {
		name string
		x    *built
		err  error
		says string
	}{
		{"version", dynamic(draft{footer: func(b []byte) { b[13] = 2 }}), vdisk.ErrUnsupported, "version"},
		{"type", dynamic(draft{footer: func(b []byte) { b[63] = 6 }}), vdisk.ErrUnsupported, "disk type 6"},
		{"size", dynamic(draft{footer: func(b []byte) { b[48] = 1 }}), vdisk.ErrUnsupported, "2040 GiB"},
		{"header elsewhere", dynamic(draft{footer: func(b []byte) { b[16] = 1 }}), vdisk.ErrTruncated, "dynamic header"},
		{"header at -1", dynamic(draft{footer: func(b []byte) { copy(b[16:], "\xff\xff\xff\xff\xff\xff\xff\xff") }}), vdisk.ErrTruncated, "dynamic header"},
		{"header cookie", dynamic(draft{header: func(b []byte) { b[0] = 'C' }}), vdisk.ErrFormat, "dynamic header"},
		{"header version", dynamic(draft{header: func(b []byte) { b[25] = 2 }}), vdisk.ErrUnsupported, "version"},
		{"header sum", changed(func(x *built) { x.write([]byte{1}, 512+900) }), vdisk.ErrFormat, "checksum"},
		{"block size 3 MiB", dynamic(draft{header: func(b []byte) { b[33] = 0x30 }}), vdisk.ErrFormat, "power of two"},
		{"block size 0", dynamic(draft{header: func(b []byte) { b[33] = 0 }}), vdisk.ErrFormat, "power of two"},
		{"block size 512", dynamic(draft{header: func(b []byte) { b[33], b[34] = 0, 2 }}), vdisk.ErrUnsupported, "64 KiB"},
		{"block size 2 GiB", dynamic(draft{header: func(b []byte) { b[33], b[32] = 0, 0x80 }}), vdisk.ErrUnsupported, "256 MiB"},
		{"too many blocks", dynamic(draft{footer: func(b []byte) { b[50] = 1 }, header: func(b []byte) { b[33], b[34] = 0x02, 0 }}), vdisk.ErrUnsupported, "blocks"},
		{"table too small", dynamic(draft{header: func(b []byte) { b[31]-- }}), vdisk.ErrFormat, "BAT of 10 blocks"},
		{"table behind the end", dynamic(draft{header: func(b []byte) { b[19] = 1 }}), vdisk.ErrTruncated, "BAT"},
		{"block behind the end", changed(func(x *built) { x.entry(7, 1<<20) }), vdisk.ErrTruncated, "block 7"},
		{"block over the footer", changed(func(x *built) { x.entry(7, uint32(x.Size()/512)-4096) }), vdisk.ErrTruncated, "block 7"},
		{"block on the header", changed(func(x *built) { x.entry(7, 1) }), vdisk.ErrFormat, "structures"},
		{"entry of zeros", changed(func(x *built) { x.entry(7, 0) }), vdisk.ErrFormat, "structures"},
		{"block on a block", changed(func(x *built) { x.entry(7, 4) }), vdisk.ErrFormat, "overlaps"},
		{"block half on a block", changed(func(x *built) { x.entry(7, 4+4096+100) }), vdisk.ErrFormat, "overlaps"},
		{"blocks cut off", changed(func(x *built) { x.Truncate(4 * mib) }), vdisk.ErrTruncated, "block"},
		{"no parent", fill(build(t, draft{size: mib, kind: 4, parentName: "base.vhd"})), vdisk.ErrUnsupported, "base.vhd"},
		{"locator behind the end", build(t, draft{size: mib, kind: 4, locators: []locatorDraft{{"W2ru", 512, utf16le("x")}}, header: func(b []byte) { b[576+16] = 1 }}).finish(), vdisk.ErrTruncated, "locator"},
		{"locator too long", build(t, draft{size: mib, kind: 4, locators: []locatorDraft{{"W2ru", 512, utf16le("x")}}, header: func(b []byte) { b[576+8] = 1 }}).finish(), vdisk.ErrFormat, "locator"},
	} {
		if _, err := vhd.Open(c.x, nil); !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v saying %q", c.name, err, c.err, c.says)
		}
	}
	for n := range 1024 {
		if _, err := vhd.Open(vdisktest.NewSparse(int64(n)), nil); !errors.Is(err, vdisk.ErrFormat) && !errors.Is(err, vdisk.ErrTruncated) {
			t.Fatalf("file of %d zeros: %v", n, err)
		}
	}
	if _, err := vhd.Open(build(t, draft{size: 2 * mib, kind: 2, footer: func(b []byte) { b[53]++ }}).finish(), nil); !errors.Is(err, vdisk.ErrTruncated) {
		t.Errorf("fixed disk larger than its file: %v", err)
	}
}

// Paths of all platforms come out, relative ones first; spaces in bytes or in
// sectors make no difference.
func TestParentLocators(t *testing.T) {
	x := build(t, draft{size: mib, kind: 4, parent: 5, parentName: `C:\images\bäse.vhd`, stamp: 86400, locators: []locatorDraft{
		{"W2ku", 512, utf16le(`C:\images\bäse.vhd`)},
		{"W2ru", 1, append(utf16le(`..\images\bäse.vhd`), 0)}, // an odd byte at the end
		{"MacX", 512, []byte("file://localhost/images/b%20se.vhd\x00")},
		{"MacX", 512, []byte("http://host/images/base.vhd")},
		{"Mac ", 512, []byte{1, 2, 3}},
		{"Wi2r", 512, []byte(`.\old.vhd` + "\x00")},
		{"what", 512, []byte("ever")},
	}}).finish()
	var got vdisk.Parent
	stop := errors.New("stop")
	if _, err := vhd.Open(x, func(p vdisk.Parent) (vdisk.Image, error) { got = p; return nil, stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	want := vdisk.Parent{
		Format: "vhd", Links: []string{"05050505-0505-0505-0505-050505050505"}, Modified: time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC),
		Paths: []vdisk.ParentPath{
			{Kind: vdisk.RelativePath, Path: `..\images\bäse.vhd`, Windows: true},
			{Kind: vdisk.RelativePath, Path: `.\old.vhd`, Windows: true},
			{Kind: vdisk.AbsolutePath, Path: `C:\images\bäse.vhd`, Windows: true},
			{Kind: vdisk.AbsolutePath, Path: "/images/b se.vhd"},
			{Kind: vdisk.RelativePath, Path: `bäse.vhd`, Windows: true},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("parent %+v\nwant   %+v", got, want)
	}
	if _, err := vhd.Open(x, func(vdisk.Parent) (vdisk.Image, error) { return nil, nil }); !errors.Is(err, vdisk.ErrUnsupported) {
		t.Errorf("a finder that finds nothing: %v", err)
	}
}

// A chain of three, the middle one larger than the base and the leaf larger
// still: what no layer has is zeros.
func TestDifferencing(t *testing.T) {
	base := fill(build(t, draft{size: 9*mib + 512, id: 1}))
	middle := build(t, draft{size: 21 * mib, kind: 4, id: 2, parent: 1})
	middle.put(1, random(50, 2*mib), patchy)
	middle.put(4, random(51, 2*mib), patchy) // the base ends inside it
	middle.put(6, random(52, 2*mib), always)
	middle.finish()
	leaf := build(t, draft{size: 25*mib + 1024, kind: 4, id: 3, parent: 2})
	leaf.put(12, random(60, 2*mib), patchy)
	leaf.put(0, random(61, 2*mib), func(s int64) bool { return s > 4000 })
	leaf.put(6, make([]byte, 2*mib), func(s int64) bool { return s < 1000 }) // zeros that are here
	leaf.finish()

	images := map[string]vdisk.Image{"01": openVHD(t, base, nil)}
	find := func(p vdisk.Parent) (vdisk.Image, error) { return images[p.Links[0][:2]], nil }
	images["02"] = openVHD(t, middle, find)
	m := openVHD(t, leaf, find)

	want := vdisktest.NewSparse(leaf.size)
	for _, layer := range []*built{base, middle, leaf} {
		lay(t, want, layer)
	}
	vdisktest.Run(t, m, want)
	if i := m.Info(); i.Variant != "differencing" || i.Link[:2] != "03" {
		t.Errorf("info %+v", i)
	}
	own, err := vdisktest.Collect(m.Own(t.Context(), 0, 8*mib))
	if err != nil || len(own) != 2 || own[0] != (vdisk.Extent{Offset: 0, Length: 4001 * 512, Kind: vdisk.Inherited}) || own[1].Kind != vdisk.Data {
		// The rest of block 0 is data, what follows is not here.
		if len(own) != 3 || own[2].Kind != vdisk.Inherited || own[1].End() != 2*mib {
			t.Errorf("own extents %v, %v", own, err)
		}
	}
}

// lay puts the sectors that a layer has over what lies beneath, by its bitmaps
// as they are in the file: a second reader, made for this test.
func lay(t *testing.T, disk *vdisktest.Sparse, x *built) {
	t.Helper()
	read := func(n, off int64) []byte {
		b := make([]byte, n)
		if _, err := x.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for block := range (x.size + x.block - 1) / x.block {
		e := read(4, draftTableAt+block*4)
		at := (int64(e[0])<<24 | int64(e[1])<<16 | int64(e[2])<<8 | int64(e[3])) * 512
		if e[0] == 0xFF {
			continue
		}
		bits := read(x.bitmap, at)
		for s := range x.block / 512 {
			off := block*x.block + s*512
			if off < x.size && bits[s/8]>>(7-s%8)&1 == 1 {
				if _, err := disk.WriteAt(read(min(512, x.size-off), at+x.bitmap+s*512), off); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
