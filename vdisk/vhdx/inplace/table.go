package inplace

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vhdx/journal"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

const (
	pageSectors = layout.PageSize / layout.SectorSize

	maxPages      = 256 // held, 16 MiB, unless more have changes
	maxDirtyPages = 128 // have changes that are in no log entry, before a flush is forced
	maxSectors    = 126 // of the table in a log entry: two entries fit into a log of 1 MiB
)

// table is the BAT, of which pages are held in memory, changed ones until they
// were written.
type table struct {
	r     io.ReaderAt
	at    int64
	pages map[int64]*page
	dirty map[int64]*page
}

type page struct {
	b     [layout.PageSize]byte
	dirty uint16 // bit for each sector of 4 KiB that has changes
}

func newTable(r io.ReaderAt, at int64) table {
	return table{r: r, at: at, pages: map[int64]*page{}, dirty: map[int64]*page{}}
}

// page returns the page of the entry at index i.
func (t *table) page(i int64) (*page, error) {
	number := i / layout.PageEntries
	if p := t.pages[number]; p != nil {
		return p, nil
	}
	p := new(page)
	if err := vdisk.ReadFull(t.r, p.b[:], t.at+number*layout.PageSize); err != nil {
		return nil, fmt.Errorf("read BAT from entry %d: %w", number*layout.PageEntries, err)
	}
	for old := range t.pages {
		if len(t.pages) < maxPages {
			break
		}
		// A page that is being written in place is not dirty and may be read
		// before it is: see Disk.commit, which keeps these.
		if t.pages[old].dirty == 0 && t.dirty[old] == nil {
			delete(t.pages, old)
		}
	}
	t.pages[number] = p
	return p, nil
}

// set changes an entry.
func (t *table) set(i int64, e uint64) error {
	p, err := t.page(i)
	if err != nil {
		return err
	}
	at := i % layout.PageEntries * layout.EntrySize
	binary.LittleEndian.PutUint64(p.b[at:], e)
	p.dirty |= 1 << (at / layout.SectorSize)
	t.dirty[i/layout.PageEntries] = p
	return nil
}

// take returns changed sectors, at most maxSectors, which then count as not
// changed, and the numbers of their pages. Pages stay in t.dirty until done.
func (t *table) take() (sectors []journal.Sector, pages []int64) {
	for _, number := range slices.Sorted(maps.Keys(t.dirty)) {
		p, taken := t.dirty[number], false
		for i := range int64(pageSectors) {
			if p.dirty&(1<<i) == 0 || len(sectors) == maxSectors {
				continue
			}
			p.dirty &^= 1 << i
			taken = true
			from := i * layout.SectorSize
			sectors = append(sectors, journal.Sector{Offset: t.at + number*layout.PageSize + from, Bytes: slices.Clone(p.b[from:][:layout.SectorSize])})
		}
		if taken {
			pages = append(pages, number)
		}
	}
	return sectors, pages
}

// done says that the sectors of pages are in their place in the file.
func (t *table) done(pages []int64) {
	for _, number := range pages {
		if t.dirty[number].dirty == 0 {
			delete(t.dirty, number)
		}
	}
}
