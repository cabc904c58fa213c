package vhdx

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

func random(seed uint64, n int64) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rnd.Read(b)
	return b
}

func TestBuiltImages(t *testing.T) {
	for _, d := range []draft{
		{diskSize: 10 * mib},
		{diskSize: 10*mib + 512},
		{diskSize: 10*mib + 4096, sector: 4096},
		{diskSize: 9 * mib, blockSize: mib, noHeader1: true},
		{diskSize: 9 * mib, blockSize: mib, noHeader2: true},
		{diskSize: 9 * mib, blockSize: mib, noRegions1: true},
		{diskSize: 9 * mib, blockSize: mib, noRegions2: true},
		{diskSize: 9 * mib, blockSize: mib, noRegions1: true, noHeader1: true, parameters: 1},
		{diskSize: 70 * tib / 2, blockSize: 32 * mib},
		{diskSize: 64 * tib, blockSize: 256 * mib},
		{diskSize: 20 << 30, blockSize: 256 * mib, sector: 512}, // 16 blocks a chunk
		{diskSize: 6 * tib, blockSize: mib, sector: 4096},
		{diskSize: 3 * mib, items: []layout.Item{itm("11111111-2222-3333-4444-555555555555", 0, []byte("hello"))}},
		{diskSize: 3 * mib, extra: []layout.Region{reg("11111111-2222-3333-4444-555555555555", 8*mib, mib, false)}},
	} {
		t.Run(fmt.Sprintf("%+v", d)[:40], func(t *testing.T) {
			x := build(t, d)
			blocks := (d.diskSize + x.d.blockSize - 1) / x.d.blockSize
			seen := map[int64]bool{}
			// Around borders of chunks and BAT pages, out of order.
			for _, b := range []int64{blocks - 1, 0, x.ratio, x.ratio - 1, x.ratio + 1, 3 * x.ratio, 2*x.ratio - 1, layout.PageEntries - 1, layout.PageEntries, blocks / 2, blocks/2 + 1} {
				if b < 0 || b >= blocks || seen[b] {
					continue
				}
				seen[b] = true
				x.put(b, random(uint64(b), min(100_000, d.diskSize-b*x.d.blockSize)))
			}
			if !seen[2] {
				x.setEntry(2, layout.Zero)
			}
			m := x.check()
			if got := m.Info(); got.LogicalSector != int(x.d.sector) || got.BlockSize != x.d.blockSize ||
				got.Variant != map[uint32]string{0: "dynamic", 1: "fixed"}[d.parameters] ||
				got.DiskID != "01234567-89ab-cdef-0123-456789abcdef" || got.VirtualSize != d.diskSize || got.PhysicalSector != 4096 {
				t.Errorf("info %+v", got)
			}
			vdisktest.Run(t, m, x.want)
		})
	}
}

// A hole of the file inside a present block is a zero extent.
func TestHolesInBlocks(t *testing.T) {
	x := build(t, draft{diskSize: 8 * mib})
	x.put(1, []byte("x"))
	x.put(2, nil)
	e, err := vdisktest.Collect(x.check().Extents(t.Context(), 0, 8*mib))
	want := []vdisk.Extent{
		{Offset: 0, Length: 2 * mib, Kind: vdisk.Zero},
		{Offset: 2 * mib, Length: 4096, Kind: vdisk.Data},
		{Offset: 2*mib + 4096, Length: 6*mib - 4096, Kind: vdisk.Zero},
	}
	if err != nil || fmt.Sprint(e) != fmt.Sprint(want) {
		t.Errorf("%v, %v; want %v", e, err, want)
	}
}

func TestBlockStates(t *testing.T) {
	for _, c := range []struct {
		entry uint64
		err   error
	}{
		{layout.NotPresent, nil},
		{layout.Undefined, nil},
		{layout.Zero, nil},
		{layout.Unmapped, nil},
		{layout.UnmappedOld, nil},
		{layout.Unmapped | 5<<20, nil}, // an old place that means nothing
		{4, vdisk.ErrFormat},
		{layout.PartiallyPresent | 5<<20, vdisk.ErrFormat},
		{layout.FullyPresent, vdisk.ErrFormat},             // at 0
		{layout.FullyPresent | 1<<20, vdisk.ErrFormat},     // in the log
		{layout.FullyPresent | 2<<20, vdisk.ErrFormat},     // in the metadata
		{layout.FullyPresent | 3<<20, vdisk.ErrFormat},     // in the BAT
		{layout.FullyPresent | 4<<20, vdisk.ErrFormat},     // in block 0
		{layout.FullyPresent | 5<<20, vdisk.ErrFormat},     // in its second half
		{layout.FullyPresent | 6<<20 | 8, vdisk.ErrFormat}, // reserved bit
		{layout.FullyPresent | 6<<20, nil},
		{layout.FullyPresent | 7<<20, vdisk.ErrTruncated},
		{layout.FullyPresent | 0xFFFFFFFFFFF00000, vdisk.ErrTruncated},
	} {
		t.Run(fmt.Sprintf("%#x", c.entry), func(t *testing.T) {
			x := build(t, draft{diskSize: 6 * mib})
			x.put(0, random(1, 100))
			x.Truncate(8 * mib)
			x.setEntry(2, c.entry)
			m, err := Open(x.Sparse, nil)
			if !errors.Is(err, c.err) {
				t.Fatalf("open: %v, want %v", err, c.err)
			}
			if c.err != nil && !strings.Contains(err.Error(), "block 2") {
				t.Errorf("%q does not name the block", err)
			}
			if c.err == nil {
				vdisktest.Run(t, m, x.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	unknown := "11111111-2222-3333-4444-555555555555"
	for _, c := range []struct {
		name  string
		draft draft
		spoil func(x *built)
		want  error
		text  string
	}{
		{"no identifier", draft{}, func(x *built) { x.write([]byte("vhdxfilf"), 0) }, vdisk.ErrFormat, "identifier"},
		{"no headers", draft{noHeader1: true, noHeader2: true}, nil, vdisk.ErrFormat, "header"},
		{"bad header checksums", draft{noHeader2: true}, func(x *built) { x.write([]byte{1}, layout.HeaderAt1+4000) }, vdisk.ErrFormat, "header"},
		{"different headers, same number", draft{}, func(x *built) { x.write(headerBytes(7, layout.GUID{}, 2*mib), layout.HeaderAt2) }, vdisk.ErrFormat, "sequence"},
		{"version", draft{}, func(x *built) {
			b := headerBytes(9, layout.GUID{}, mib)
			put16(b[66:], 2)
			put32(b[4:], layout.Checksum(b))
			x.write(b, layout.HeaderAt1)
		}, vdisk.ErrUnsupported, "version 2"},
		{"no region tables", draft{noRegions1: true, noRegions2: true}, nil, vdisk.ErrFormat, "region table"},
		{"required region", draft{extra: []layout.Region{reg(unknown, 8*mib, mib, true)}}, nil, vdisk.ErrUnsupported, unknown},
		{"overlapping regions", draft{extra: []layout.Region{reg(unknown, testBATAt, mib, false)}}, nil, vdisk.ErrFormat, "overlaps"},
		{"region over log", draft{extra: []layout.Region{reg(unknown, testLogAt, mib, false)}}, nil, vdisk.ErrFormat, "overlaps"},
		{"region in the head", draft{extra: []layout.Region{reg(unknown, 0, mib, false)}}, nil, vdisk.ErrFormat, "region"},
		{"two BATs", draft{extra: []layout.Region{reg(layout.RegionBAT, 8*mib, mib, false)}}, nil, vdisk.ErrFormat, "twice"},
		{"required item", draft{items: []layout.Item{itm(unknown, 4, []byte("x"))}}, nil, vdisk.ErrUnsupported, unknown},
		{"required user item", draft{items: []layout.Item{itm(layout.ItemDiskSize, 5, []byte("12345678"))}}, nil, vdisk.ErrUnsupported, layout.ItemDiskSize},
		{"item twice", draft{items: []layout.Item{itm(layout.ItemDiskSize, 6, []byte("12345678"))}}, nil, vdisk.ErrFormat, "twice"},
		{"differencing", draft{parameters: 2}, nil, vdisk.ErrUnsupported, `differencing image, its parent (".\\base.vhdx")`},
		{"block size", draft{blockSize: 3 * mib}, nil, vdisk.ErrFormat, "block size"},
		{"block size too large", draft{blockSize: 512 * mib}, nil, vdisk.ErrFormat, "block size"},
		{"sector size", draft{sector: 1024}, nil, vdisk.ErrFormat, "sector size"},
		{"disk size", draft{diskSize: 10*mib + 1}, nil, vdisk.ErrFormat, "disk size"},
		{"disk too large", draft{diskSize: 65 * tib, blockSize: 32 * mib}, nil, vdisk.ErrFormat, "disk size"},
		{"BAT too small", draft{}, func(x *built) {
			b := metadataBytes(draft{diskSize: 64 * tib, blockSize: mib, sector: 512})
			x.write(b, testMetaAt)
		}, vdisk.ErrFormat, "BAT needs"},
		{"metadata table", draft{}, func(x *built) { x.write([]byte("metadatb"), testMetaAt) }, vdisk.ErrFormat, "metadata"},
		{"item outside its region", draft{}, func(x *built) { x.write([]byte{0, 0, 16, 0}, testMetaAt+64+16) }, vdisk.ErrFormat, layout.ItemFileParameters},
		{"cut in the BAT", draft{}, func(x *built) { x.Truncate(testBATAt + 100) }, vdisk.ErrTruncated, layout.RegionBAT},
		{"cut in the head", draft{}, func(x *built) { x.Truncate(70_000) }, vdisk.ErrTruncated, "header"},
		{"empty file", draft{}, func(x *built) { x.Truncate(0) }, vdisk.ErrTruncated, "identifier"},
		{"file too large", draft{}, func(x *built) { x.Truncate(129 * tib) }, vdisk.ErrUnsupported, "bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.draft.diskSize == 0 {
				c.draft.diskSize = 10 * mib
			}
			x := build(t, c.draft)
			if c.spoil != nil {
				c.spoil(x)
			}
			_, err := Open(x.Sparse, nil)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("open: %v; want %v about %q", err, c.want, c.text)
			}
		})
	}
}

// Identical headers with one number are what disk2vhd writes.
func TestTwinHeaders(t *testing.T) {
	x := build(t, draft{diskSize: 10 * mib})
	x.write(headerBytes(7, layout.GUID{}, mib), layout.HeaderAt2)
	x.check()
}

// The newer header counts even when it is the second.
func TestNewerHeader(t *testing.T) {
	x := build(t, draft{diskSize: 10 * mib, logGUID: layout.GUID{1}}) // says there is a log to replay
	if _, err := Open(x.Sparse, nil); !errors.Is(err, vdisk.ErrFormat) {
		t.Fatalf("open with an empty log to replay: %v", err)
	}
	x.write(headerBytes(8, layout.GUID{}, mib), layout.HeaderAt2)
	x.check()
}

// QEMU ends a fixed image where the disk ends, in the middle of a block.
func TestLastBlockCut(t *testing.T) {
	x := build(t, draft{diskSize: 3 * mib})
	at := x.put(1, random(1, mib))
	x.Truncate(at + mib)
	vdisktest.Run(t, x.check(), x.want)
	x.Truncate(at + mib - 1)
	if _, err := Open(x.Sparse, nil); !errors.Is(err, vdisk.ErrTruncated) || !strings.Contains(err.Error(), "block 1 (disk offset 2097152)") {
		t.Errorf("one byte less: %v", err)
	}
}

func TestEmptyDisk(t *testing.T) {
	m := build(t, draft{diskSize: 0}).check()
	if e, err := vdisktest.Collect(m.Extents(t.Context(), 0, 0)); len(e) != 0 || err != nil {
		t.Errorf("%v, %v", e, err)
	}
	vdisktest.Run(t, m, vdisktest.NewSparse(0))
}

// A table of 512 MiB is neither held in memory nor read where it is a hole,
// and the map of a large, nearly empty disk comes at once.
func TestLargestTable(t *testing.T) {
	x := build(t, draft{diskSize: 64 * tib, blockSize: mib})
	for _, b := range []int64{0, 1, 5_000_000, 67108863} {
		x.put(b, bytes.Repeat([]byte{7}, 100))
	}
	begin := time.Now()
	m := x.check()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("opening took %v", d)
	}
	begin = time.Now()
	e, err := vdisktest.Collect(m.Extents(t.Context(), 0, m.Size()))
	if err != nil || len(e) != 8 {
		t.Errorf("%d extents, %v", len(e), err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("the map took %v", d)
	}
	if pages, err := m.table.survey(t.Context()); err != nil || len(pages) > 3 {
		t.Errorf("%d pages are read (%v)", len(pages), err)
	}
	vdisktest.Run(t, m, x.want)
}

// TestClaims compares the bits with a plain list.
func TestClaims(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	c, plain := new(claims), map[int64]bool{}
	for range 2000 {
		off, length := rnd.Int64N(200_000)*mib, rnd.Int64N(300*mib)
		free := true
		for at := off; at < off+length; at += mib {
			free = free && !plain[at]
		}
		if got := c.taken.claim(off, length); got != free {
			t.Fatalf("claim %d bytes at %d: %v, want %v", length, off, got, free)
		} else if got {
			for at := off; at < off+length; at += mib {
				plain[at] = true
			}
		} else {
			c, plain = new(claims), map[int64]bool{} // a refused claim may have taken a part
		}
	}
	if !c.taken.claim(layout.MaxFileSize-mib, mib) || c.taken.claim(layout.MaxFileSize-mib, 1) {
		t.Error("the last MiB")
	}
}
