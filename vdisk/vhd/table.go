package vhd

import (
	"encoding/binary"
	"slices"
	"sync/atomic"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/paged"
)

const (
	entrySize   = 4
	absent      = 0xFFFFFFFF
	pageEntries = 16 << 10
	pageSize    = pageEntries * entrySize
	keepPages   = 128     // 8 MiB
	keepBitmaps = 4 << 20 // bytes

	// Of images with a parent, of which a chain may have many.
	keepChildPages   = 16
	keepChildBitmaps = 1 << 20
)

// layout is the arithmetic of blocks, which reading and writing share.
type layout struct {
	diskSize   int64
	blockSize  int64
	bitmapSize int64 // of a block, before its data; whole sectors
	blocks     int64
}

func newLayout(diskSize, blockSize int64) layout {
	bits := blockSize / sectorSize
	return layout{
		diskSize: diskSize, blockSize: blockSize,
		bitmapSize: (bits/8 + sectorSize - 1) / sectorSize * sectorSize,
		blocks:     (diskSize + blockSize - 1) / blockSize,
	}
}

// used returns how many bytes of a block belong to the disk.
func (l layout) used(block int64) int64 { return min(l.blockSize, l.diskSize-block*l.blockSize) }

// table reads the BAT and the blocks' bitmaps.
type table struct {
	layout
	file    vdisk.Image
	at      int64 // of the BAT in the file
	end     int64 // where the footer begins
	pages   *paged.Cache[*page]
	bitmaps *paged.Cache[*bitmap]
}

// page is a part of the BAT, in its own order of bytes.
type page struct {
	b    [pageSize]byte
	full [pageEntries / 32]atomic.Uint32 // bit per block: its bitmap was read and has all bits
}

// block is where a block is; at is where its bitmap begins, its data follow.
type block struct {
	number  int64
	present bool
	at      int64
	page    *page
}

func (b block) full() bool {
	i := b.number % pageEntries
	return b.page.full[i/32].Load()&(1<<(i%32)) != 0
}

func (b block) setFull() {
	i := b.number % pageEntries
	b.page.full[i/32].Or(1 << (i % 32))
}

func newTable(file vdisk.Image, f footer, h header, end int64) (*table, error) {
	t := &table{layout: newLayout(int64(f.diskSize()), int64(h.blockSize)), file: file, end: end}
	need := uint64(t.blocks) * entrySize
	if h.tableAt > uint64(end) || uint64(end)-h.tableAt < need {
		return nil, vdisk.Truncated("BAT has %d bytes at %d, file ends at %d", need, h.tableAt, end)
	}
	t.at = int64(h.tableAt)
	pages := (t.blocks + pageEntries - 1) / pageEntries
	keep, keepBits := int64(keepPages), int64(keepBitmaps)
	if f.kind == typeDifferencing {
		keep, keepBits = keepChildPages, keepChildBitmaps
	}
	t.pages = paged.New(min(pages, keep), func(number int64) (*page, error) {
		p := new(page)
		return p, t.load(p, number)
	})
	t.bitmaps = paged.New(min(t.blocks, keepBits/max(t.bitmapSize, 1024)), t.loadBitmap)
	return t, nil
}

// load fills p with the entries of its page; those behind the disk stay zero.
func (t *table) load(p *page, number int64) error {
	n := min(pageEntries, t.blocks-number*pageEntries)
	return vdisk.ReadFull(t.file, p.b[:n*entrySize], t.at+number*pageSize)
}

// block looks a block up. Its place was checked when the image was opened, and
// is checked again, because the file may not be what it was.
func (t *table) block(number int64) (block, error) {
	p, err := t.pages.Get(number / pageEntries)
	if err != nil {
		return block{}, err
	}
	return t.place(p, number)
}

func (t *table) place(p *page, number int64) (block, error) {
	sector := binary.BigEndian.Uint32(p.b[number%pageEntries*entrySize:])
	b := block{number: number, page: p, at: int64(sector) * sectorSize, present: sector != absent}
	if !b.present {
		return b, nil
	}
	// The last block counts as far as the disk goes.
	if need := t.bitmapSize + t.used(number); t.end-b.at < need {
		return b, vdisk.Truncated("block %d (disk offset %d) needs %d bytes at %d, the file's data end at %d",
			number, number*t.blockSize, need, b.at, t.end)
	}
	return b, nil
}

// check reads all entries once: no block may lie on the structures or on another
// block.
func (t *table) check(f footer) error {
	var starts []uint32 // sectors
	taken := [][2]int64{{0, footerSize}, {int64(f.dataOffset), headerSize}, {t.at, t.blocks * entrySize}}
	p := new(page)
	for number := range t.blocks {
		if number%pageEntries == 0 {
			if err := t.load(p, number/pageEntries); err != nil {
				return err
			}
		}
		b, err := t.place(p, number)
		if err != nil {
			return err
		}
		if !b.present {
			continue
		}
		end := b.at + t.bitmapSize + t.used(number)
		for _, s := range taken {
			if b.at < s[0]+s[1] && s[0] < end {
				return vdisk.BadFormat("block %d at %d lies on the image's own structures at %d", number, b.at, s[0])
			}
		}
		starts = append(starts, uint32(b.at/sectorSize))
	}
	slices.Sort(starts)
	for i := 1; i < len(starts); i++ {
		if gap := int64(starts[i]-starts[i-1]) * sectorSize; gap < t.bitmapSize+t.blockSize {
			return vdisk.BadFormat("a block at %d overlaps one at %d", int64(starts[i-1])*sectorSize, int64(starts[i])*sectorSize)
		}
	}
	return nil
}

// bitmap has a bit for each sector of a block, the first one in the highest bit.
type bitmap struct {
	b    []byte
	full bool // all sectors that belong to the disk are here
}

func (t *table) loadBitmap(number int64) (*bitmap, error) {
	m := &bitmap{b: make([]byte, t.bitmapSize)}
	b, err := t.block(number)
	if err != nil || !b.present {
		return m, err
	}
	if err := vdisk.ReadFull(t.file, m.b, b.at); err != nil {
		return nil, err
	}
	sectors := (t.used(number) + sectorSize - 1) / sectorSize
	here, n := m.run(0, sectors)
	m.full = here && n == sectors
	return m, nil
}

// run returns how many bytes of a block, from inside on and at most length, are
// all here or all not here.
func (t *table) run(b block, inside, length int64) (here bool, n int64, err error) {
	if !b.present || b.full() {
		return b.present, length, nil
	}
	m, err := t.bitmaps.Get(b.number)
	if err != nil {
		return false, 0, err
	}
	if m.full {
		b.setFull()
		return true, length, nil
	}
	first, last := inside/sectorSize, (inside+length+sectorSize-1)/sectorSize
	here, sectors := m.run(first, last)
	return here, min((first+sectors)*sectorSize-inside, length), nil
}

// run returns the bit at first, and how many bits up to last are like it.
func (m *bitmap) run(first, last int64) (bool, int64) {
	set := m.b[first/8]&(0x80>>(first%8)) != 0
	whole := byte(0)
	if set {
		whole = 0xFF
	}
	at := first + 1
	for at < last {
		if at%8 == 0 && m.b[at/8] == whole {
			at += 8
			continue
		}
		if (m.b[at/8]&(0x80>>(at%8)) != 0) != set {
			break
		}
		at++
	}
	return set, min(at, last) - first
}
