package qcow2_test

import (
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// parentOf is a parent of ones.
func parentOf(size int64) vdisk.FindParent {
	return func(vdisk.Parent) (vdisk.Image, error) { return vdisktest.FromBytes(fillOf(1, size)), nil }
}

// TestEntries reads each kind of L2 entry, over a parent that ends inside the
// disk.
func TestEntries(t *testing.T) {
	const cluster = 64 * kib
	x := build(t, draft{size: 10*cluster + 512, backing: "base", features: 1}) // dirty: of no interest
	x.entry(1, x.store(fillOf(2, cluster))|1<<63)
	x.entry(2, 1)                             // zero
	x.entry(3, x.store(fillOf(3, cluster))|1) // zero with a place
	x.entry(4, 1<<63)                         // nothing, and nobody shares it
	x.entry(5, x.store(fillOf(5, cluster)))   // shared with a snapshot
	small := deflate(t, fillOf(6, cluster))
	x.write(small, x.next+700)
	x.entry(6, 1<<62|uint64((700%512+len(small)-1)/512)<<54|uint64(x.next+700))
	x.next += cluster
	x.entry(10, x.store(fillOf(7, 512))) // the disk ends in it, and the file
	x.Truncate(x.next - cluster + 512)

	want := vdisktest.NewSparse(x.size)
	put := func(n int64, c byte, length int64) {
		if _, err := want.WriteAt(fillOf(c, length), n*cluster); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 1, cluster)
	put(1, 2, cluster)
	put(4, 1, cluster)
	put(5, 5, cluster)
	put(6, 6, cluster)
	put(7, 1, cluster+777) // the parent's end
	put(10, 7, 512)
	m, err := qcow2.Open(x, parentOf(8*cluster+777))
	if err != nil {
		t.Fatal(err)
	}
	vdisktest.RunSlow(t, m, want)
	own, err := vdisktest.Collect(m.Own(t.Context(), 0, x.size))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []vdisk.Kind
	for _, e := range own {
		kinds = append(kinds, e.Kind)
	}
	if !reflect.DeepEqual(kinds, []vdisk.Kind{vdisk.Inherited, vdisk.Data, vdisk.Zero, vdisk.Inherited, vdisk.Data, vdisk.Inherited, vdisk.Data}) {
		t.Errorf("own extents %v", own)
	}
}

// TestSubclusters reads an extended entry: stored, zero and inherited parts side
// by side.
func TestSubclusters(t *testing.T) {
	const cluster, part = 64 * kib, 2 * kib
	x := build(t, draft{size: 2 * cluster, l1: 1, backing: "base", features: 1 << 4})
	at := x.store(fillOf(9, cluster))
	x.put64(at, 2*cluster)
	const stores, zeros = uint64(0x8000_00F1), uint64(0x4000_000E)
	x.put64(zeros<<32|stores, 2*cluster+8)
	x.put64(0xFFFFFFFF<<32, 2*cluster+24) // all of the second cluster is zeros
	want := vdisktest.NewSparse(2 * cluster)
	for n := range int64(32) {
		c := byte(1)
		if stores>>n&1 == 1 {
			c = 9
		} else if zeros>>n&1 == 1 {
			c = 0
		}
		if _, err := want.WriteAt(fillOf(c, part), n*part); err != nil {
			t.Fatal(err)
		}
	}
	m, err := qcow2.Open(x, parentOf(2*cluster))
	if err != nil {
		t.Fatal(err)
	}
	vdisktest.Run(t, m, want)
}

func TestRefusals(t *testing.T) {
	const cluster = 64 * kib
	of := func(d draft) *built { d.size = 10 * cluster; return build(t, d) }
	header := func(at int, b ...byte) *built { return of(draft{header: func(h []byte) { copy(h[at:], b) }}) }
	for _, c := range []struct {
		name string
		x    *built
		err  error
		says string
	}{
		{"version 1", of(draft{version: 1}), vdisk.ErrUnsupported, "version 1"},
		{"version 4", of(draft{version: 4}), vdisk.ErrUnsupported, "version 4"},
		{"unfinished", header(7, 0), vdisk.ErrFormat, "did not finish"},
		{"small clusters", header(23, 8), vdisk.ErrFormat, "2^8"},
		{"large clusters", header(23, 22), vdisk.ErrUnsupported, "2^22"},
		{"large disk", header(24, 0x7F), vdisk.ErrUnsupported, "disk of"},
		{"encrypted by something", header(35, 3), vdisk.ErrUnsupported, "method 3"},
		{"short header", header(103, 96), vdisk.ErrFormat, "header of 96"},
		{"odd header", header(103, 105), vdisk.ErrFormat, "header of 105"},
		{"long header", header(101, 1), vdisk.ErrFormat, "header of"},
		{"L1 too short", of(draft{l1: 1, header: func(h []byte) { h[39] = 0 }}), vdisk.ErrFormat, "L1 table of 0 entries"},
		{"L1 outside", header(40, 1), vdisk.ErrTruncated, "L1 table"},
		{"L1 at no cluster", header(47, 8), vdisk.ErrFormat, "no cluster"},
		{"L1 too long", of(draft{bits: 9, l1: 1 << 31, header: func(h []byte) { binary.BigEndian.PutUint64(h[24:], 1<<40) }}), vdisk.ErrUnsupported, "L1 table"},
		{"corrupt", of(draft{features: 2}), vdisk.ErrFormat, "qemu-img check"},
		{"data file", of(draft{features: 4, extensions: extension(0x44415441, "disk.data")}), vdisk.ErrUnsupported, "disk.data"},
		{"unknown feature", of(draft{features: 1 << 7, extensions: extension(0x6803F857, "\x00\x07spiral clusters"+strings.Repeat("\x00", 31))}), vdisk.ErrUnsupported, "spiral"},
		{"compression without its bit", of(draft{header: func(h []byte) { h[103], h[104] = 112, 1 }}), vdisk.ErrFormat, "compression"},
		{"unknown compression", of(draft{features: 8, header: func(h []byte) { h[103], h[104] = 112, 7 }}), vdisk.ErrUnsupported, "compression type 7"},
		{"extended for small clusters", of(draft{bits: 12, features: 16}), vdisk.ErrFormat, "extended"},
		{"long extension", of(draft{extensions: []byte{1, 2, 3, 4, 255, 255, 255, 255}}), vdisk.ErrFormat, "extension"},
		{"name too long", of(draft{backing: strings.Repeat("x", 1024)}), vdisk.ErrFormat, "name"},
		{"name outside", header(8, 1), vdisk.ErrFormat, "name"},
		{"nbd", of(draft{backing: "nbd://host/disk"}), vdisk.ErrUnsupported, "nbd://host/disk"},
		{"json", of(draft{backing: `json:{"driver":"raw"}`}), vdisk.ErrUnsupported, "not a file"},
		{"name with NUL", of(draft{backing: "a\x00b"}), vdisk.ErrFormat, "name"},
		{"no parent", of(draft{backing: "base.img"}), vdisk.ErrUnsupported, "base.img"},
	} {
		if _, err := qcow2.Open(c.x, nil); !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v saying %q", c.name, err, c.err, c.says)
		}
	}
	whole := of(draft{})
	for n := range int64(700) {
		b := make([]byte, n)
		_, _ = whole.ReadAt(b, 0) // all that there is
		if _, err := qcow2.Open(vdisktest.FromBytes(b), nil); !errors.Is(err, vdisk.ErrFormat) && !errors.Is(err, vdisk.ErrTruncated) {
			t.Fatalf("file of %d bytes: %v", n, err)
		}
	}
}

// TestDamagedTables finds what is wrong when a table is used: in the L1 table at
// once, in an L2 table on reading.
func TestDamagedTables(t *testing.T) {
	const cluster = 64 * kib
	l1 := func(e uint64) *built {
		x := build(t, draft{size: gib})
		x.put64(e, cluster+8)
		return x
	}
	l2 := func(d draft, e, more uint64) *built {
		d.size = 10 * cluster
		x := build(t, d)
		x.store(fillOf(1, cluster))
		x.put64(e, 2*cluster)
		if more != 0 {
			x.put64(more, 2*cluster+8)
		}
		return x
	}
	extended := draft{features: 16}
	for _, c := range []struct {
		name string
		x    *built
		err  error
		says string
	}{
		{"L1 reserved", l1(3<<16 | 1), vdisk.ErrFormat, "reserved"},
		{"L1 reserved high", l1(1<<62 | 3<<16), vdisk.ErrFormat, "reserved"},
		{"L2 at no cluster", l1(3<<16 | 512), vdisk.ErrFormat, "no cluster"},
		{"L2 outside", l1(9 << 16), vdisk.ErrTruncated, "L2 table 1"},
		{"L2 used twice", l1(2 << 16), vdisk.ErrFormat, "twice"},
		{"entry reserved", l2(draft{}, 3<<16|2, 0), vdisk.ErrFormat, "reserved"},
		{"entry reserved high", l2(draft{}, 3<<16|1<<60, 0), vdisk.ErrFormat, "reserved"},
		{"zero in version 2", l2(draft{version: 2}, 1, 0), vdisk.ErrFormat, "reserved"},
		{"zero in an extended entry", l2(extended, 1, 0), vdisk.ErrFormat, "reserved"},
		{"at no cluster", l2(draft{}, 3<<16|512, 0), vdisk.ErrFormat, "no cluster"},
		{"outside", l2(draft{}, 4<<16, 0), vdisk.ErrTruncated, "file ends"},
		{"far outside", l2(draft{}, 1<<55, 0), vdisk.ErrTruncated, "file ends"},
		{"stored and zero", l2(extended, 3<<16, 1<<32|1), vdisk.ErrFormat, "subclusters"},
		{"stored nowhere", l2(extended, 0, 1), vdisk.ErrFormat, "subclusters"},
		{"compressed outside", l2(draft{}, 1<<62|9<<16, 0), vdisk.ErrTruncated, "file ends"},
		{"compressed nonsense", l2(draft{}, 1<<62|3<<16|127<<54, 0), vdisk.ErrFormat, "decompress"},
		{"compressed by zstd nonsense", l2(draft{features: 8, header: func(h []byte) { h[103], h[104] = 112, 1 }}, 1<<62|3<<16|7<<54, 0), vdisk.ErrFormat, "decompress"},
		{"compressed and cut", l2(draft{}, 1<<62|1<<54|(4<<16-100), 0), vdisk.ErrTruncated, "decompress"},
	} {
		m, err := qcow2.Open(c.x, nil)
		if err == nil {
			_, err = m.ReadAt(make([]byte, 100), 0)
			if err == nil {
				t.Errorf("%s: the read went well", c.name)
			}
			if _, mapErr := vdisktest.Collect(m.Extents(t.Context(), 0, m.Size())); (mapErr == nil) != strings.HasPrefix(c.name, "compressed") {
				t.Errorf("%s: map: %v", c.name, mapErr)
			}
		}
		if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v saying %q", c.name, err, c.err, c.says)
		}
	}
}

// TestParentNames says what becomes of a backing file's name.
func TestParentNames(t *testing.T) {
	for _, c := range []struct {
		name, format string
		want         vdisk.Parent
	}{
		{"base.raw", "raw", vdisk.Parent{Format: "raw", Paths: []vdisk.ParentPath{{Kind: vdisk.RelativePath, Path: "base.raw"}}}},
		{"../a:b/base", "", vdisk.Parent{Paths: []vdisk.ParentPath{{Kind: vdisk.RelativePath, Path: "../a:b/base"}}}},
		{"/srv/base", "vpc", vdisk.Parent{Format: "vhd", Paths: []vdisk.ParentPath{{Kind: vdisk.AbsolutePath, Path: "/srv/base"}}}},
		{"file:/srv/base", "qcow2", vdisk.Parent{Format: "qcow2", Paths: []vdisk.ParentPath{{Kind: vdisk.AbsolutePath, Path: "/srv/base"}}}},
		{`C:\vm\base`, "vhdx", vdisk.Parent{Format: "vhdx", Paths: []vdisk.ParentPath{{Kind: vdisk.AbsolutePath, Path: `C:\vm\base`, Windows: true}}}},
		{`\\server\vm\base`, "raw", vdisk.Parent{Format: "raw", Paths: []vdisk.ParentPath{{Kind: vdisk.AbsolutePath, Path: `\\server\vm\base`, Windows: true}}}},
	} {
		d := draft{size: mib, backing: c.name}
		if c.format != "" {
			d.extensions = extension(0xE2792ACA, c.format)
		}
		var got vdisk.Parent
		if _, err := qcow2.Open(build(t, d), func(p vdisk.Parent) (vdisk.Image, error) { got = p; return vdisktest.NewSparse(0), nil }); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
