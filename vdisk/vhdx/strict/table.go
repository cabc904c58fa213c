package strict

import (
	"fmt"
	"io"
	"sort"
)

// table checks all entries of the BAT and that nothing overlaps. Section 2.5.
func (d *Disk) table() {
	d.ratio = (1 << 23) * d.Sector / d.Block
	d.payload = (d.Size + d.Block - 1) / d.Block
	count := d.payload
	switch {
	case d.payload > 0 && d.hasParent:
		count = (d.payload + d.ratio - 1) / d.ratio * (d.ratio + 1)
	case d.payload > 0:
		count += (d.payload - 1) / d.ratio
	}
	d.broken(count*8 <= d.bat.length, "the BAT has %d bytes for %d entries", d.bat.length, count)
	if len(d.wrong) > 0 {
		return
	}
	raw := d.get(d.bat.at, count*8)
	used := []area{{"head", 0, mega}, d.log, d.bat, d.meta}
	blocks, partial := int64(0), map[int64]bool{}
	for i := range count {
		e := u64(raw[8*i:])
		d.entries = append(d.entries, e)
		state, middle, at := e&7, e>>3&0x1FFFF, int64(e>>20)*mega
		if e == 0 && !d.leave { // not present: nothing else to look at
			if i%(d.ratio+1) != d.ratio {
				blocks++
			}
			continue
		}
		d.broken(middle == 0, "entry %d: reserved bits", i)
		if i%(d.ratio+1) == d.ratio { // of a sector bitmap
			if state == 6 && d.hasParent {
				used = append(used, area{fmt.Sprint("bitmap ", i), at, mega})
			} else {
				d.broken(e == 0, "bitmap entry %d is %#x", i, e)
			}
			continue
		}
		b := blocks
		if blocks++; b >= d.payload {
			d.broken(e == 0, "entry %d behind the disk is %#x", i, e)
			continue
		}
		switch state {
		case 0, 2:
			d.broken(at == 0, "block %d has state %d and a place", b, state)
		case 1, 3: // may keep a place, which then is theirs
			if at != 0 {
				used = append(used, area{fmt.Sprint("block ", b), at, d.Block})
			}
		case 7:
			d.broken(d.hasParent, "block %d is partially present without a parent", b)
			if d.hasParent {
				partial[b/d.ratio] = true
			}
			fallthrough
		case 6:
			used = append(used, area{fmt.Sprint("block ", b), at, d.Block})
		default:
			d.broken(false, "block %d has state %d", b, state)
		}
		d.broken(!d.leave || state == 6, "block %d of a fixed image has state %d", b, state)
	}
	for chunk := range partial {
		d.broken(d.entries[(chunk+1)*(d.ratio+1)-1]&7 == 6, "chunk %d has partial blocks and no bitmap", chunk)
	}
	sort.Slice(used, func(i, j int) bool { return used[i].at < used[j].at })
	for i, a := range used {
		d.broken(a.at%mega == 0 && a.at+a.length <= d.size, "%s at %d, the file has %d", a.name, a.at, d.size)
		if i > 0 {
			d.broken(used[i-1].at+used[i-1].length <= a.at, "%s and %s overlap at %d", used[i-1].name, a.name, a.at)
			d.broken(a.at != 0, "%s at 0", a.name)
		}
	}
}

// Read returns what the disk has at off, sector by sector.
func (d *Disk) Read(off, length int64) ([]byte, error) {
	d.wrong = nil
	var out []byte
	for length > 0 {
		n := min(length, d.Sector-off%d.Sector)
		out = append(out, d.sector(off, n)...)
		off, length = off+n, length-n
	}
	if len(d.wrong) > 0 {
		return out, d.wrong[0]
	}
	return out, nil
}

func (d *Disk) sector(off, n int64) []byte {
	block := off / d.Block
	e := d.entries[block+block/d.ratio]
	above := false
	switch e & 7 {
	case 0:
		above = d.hasParent
	case 6:
		return d.get(int64(e>>20)*mega+off%d.Block, n)
	case 7:
		bitmap := int64(d.entries[(block/d.ratio+1)*(d.ratio+1)-1]>>20) * mega
		bit := block%d.ratio*(d.Block/d.Sector) + off%d.Block/d.Sector
		if d.get(bitmap+bit/8, 1)[0]>>(bit%8)&1 == 1 {
			return d.get(int64(e>>20)*mega+off%d.Block, n)
		}
		above = true
	}
	b := make([]byte, n)
	if above && d.parent != nil {
		if _, err := d.parent.ReadAt(b, off); err != nil && err != io.EOF { //nolint:errorlint // the end of a parent is zeros
			d.broken(false, "%v", err)
		}
	}
	return b
}
