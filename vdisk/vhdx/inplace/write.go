package inplace

import (
	"context"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// copyPiece is how much is copied at once when a block gets its place.
const copyPiece = 256 << 10

// WriteAt writes p to the disk at off. It is durable after the next Flush.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.inside("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := d.begin(); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		block, inside := (off+int64(done))/d.BlockSize, (off+int64(done))%d.BlockSize
		part := p[done:min(int64(len(p)), int64(done)+d.BlockSize-inside)]
		if err := d.write(part, block, inside); err != nil {
			return done, fmt.Errorf("write VHDX at %d: %w", off+int64(done), err)
		}
		done += len(part)
	}
	return done, d.relieve()
}

func (d *Disk) inside(what string, off, length int64) error {
	if off < 0 || length < 0 || off > d.DiskSize || length > d.DiskSize-off {
		return fmt.Errorf("%s %d bytes at %d: outside a disk of %d", what, length, off, d.DiskSize)
	}
	return nil
}

// relieve flushes when many pages of the table wait for it.
func (d *Disk) relieve() error {
	d.mu.Lock()
	full := len(d.table.dirty) > maxDirtyPages
	d.mu.Unlock()
	if full {
		return d.Flush()
	}
	return nil
}

// write writes p, which lies in one block.
func (d *Disk) write(p []byte, block, inside int64) error {
	d.mu.Lock()
	e, err := d.settled(block)
	if err != nil {
		d.mu.Unlock()
		return err
	}
	if state(e) == layout.FullyPresent {
		d.use.RLock()
		d.mu.Unlock()
		defer d.use.RUnlock()
		_, err := d.w.WriteAt(p, place(e)+inside)
		return err
	}
	at, stale := place(e), true // sectors that are the parent's may hold anything
	if state(e) != layout.PartiallyPresent {
		if at, stale, err = d.allocate(); err != nil {
			d.mu.Unlock()
			return err
		}
	}
	d.busy[block] = true
	d.mu.Unlock()

	err = d.fill(p, block, inside, e, at, stale)

	d.mu.Lock()
	defer d.mu.Unlock()
	// From here on the block is seen, and the next flush puts it into the table:
	// all of its bytes were written before.
	if err == nil {
		err = d.table.set(d.Index(block), uint64(at)|layout.FullyPresent)
	}
	if err != nil && state(e) != layout.PartiallyPresent {
		d.free = append(d.free, vdisk.Extent{Offset: at, Length: d.BlockSize})
	}
	delete(d.busy, block)
	d.calm.Broadcast()
	return err
}

// settled returns the entry of a block that nobody is giving a place. The caller
// holds mu.
func (d *Disk) settled(block int64) (uint64, error) {
	for d.busy[block] {
		d.calm.Wait()
	}
	if d.err != nil {
		return 0, d.err
	}
	return d.entry(block)
}

// allocate returns a place for a block, and whether it may hold old bytes. The
// caller holds mu.
func (d *Disk) allocate() (at int64, stale bool, err error) {
	for i := range d.free {
		if e := &d.free[i]; e.Length >= d.BlockSize {
			at = e.Offset
			e.Offset += d.BlockSize
			if e.Length -= d.BlockSize; e.Length == 0 {
				d.free = append(d.free[:i], d.free[i+1:]...)
			}
			return at, true, nil
		}
	}
	if d.end+d.BlockSize > layout.MaxFileSize {
		return 0, false, vdisk.Unsupported("file beyond %d bytes; trim the disk, or convert it", layout.MaxFileSize)
	}
	if err := d.w.Truncate(d.end + d.BlockSize); err != nil {
		return 0, false, err
	}
	at = d.end
	d.end += d.BlockSize
	return at, false, nil
}

// fill writes all bytes of a block that gets its place: p, and around it what the
// block was before.
func (d *Disk) fill(p []byte, block, inside int64, e uint64, at int64, stale bool) error {
	if _, err := d.w.WriteAt(p, at+inside); err != nil {
		return err
	}
	around := [][2]int64{{0, inside}, {inside + int64(len(p)), d.BlockSize}}
	for _, r := range around {
		if r[0] < r[1] {
			if err := d.before(block, r[0], r[1], e, at, stale); err != nil {
				return err
			}
		}
	}
	return nil
}

// before writes what a block was from..to before it got its place.
func (d *Disk) before(block, from, to int64, e uint64, at int64, stale bool) error {
	first, used := block*d.BlockSize, d.Used(block)
	var was iter.Seq2[vdisk.Extent, error]
	ctx := context.Background()
	switch {
	case d.parent != nil && state(e) == layout.PartiallyPresent:
		was = d.reader.Own(ctx, first+min(from, used), first+min(to, used))
	case d.parent != nil && state(e) == layout.NotPresent:
		was = func(yield func(vdisk.Extent, error) bool) {
			yield(vdisk.Extent{Offset: first + min(from, used), Length: min(to, used) - min(from, used), Kind: vdisk.Inherited}, nil)
		}
	default:
		return d.zeros(at+from, to-from, stale)
	}
	for x, err := range was {
		if err != nil {
			return err
		}
		if x.Kind == vdisk.Inherited { // the rest is in its place already
			if err := d.inherit(x, at-first, stale); err != nil {
				return err
			}
		}
	}
	past := max(from, used) // behind the end of the disk
	return d.zeros(at+past, to-past, stale)
}

// inherit copies an extent of the parent to shift bytes further in the file.
func (d *Disk) inherit(x vdisk.Extent, shift int64, stale bool) error {
	buf := make([]byte, min(copyPiece, x.Length))
	one := func(yield func(vdisk.Extent, error) bool) { yield(x, nil) }
	for below, err := range vdisk.Beneath(context.Background(), one, d.parent, x.End()) {
		if err != nil {
			return err
		}
		if below.Kind == vdisk.Zero {
			if err := d.zeros(below.Offset+shift, below.Length, stale); err != nil {
				return err
			}
			continue
		}
		for off := below.Offset; off < below.End(); off += copyPiece {
			p := buf[:min(copyPiece, below.End()-off)]
			if err := vdisk.ReadBeneath(d.parent, p, off); err != nil {
				return err
			}
			if _, err := d.w.WriteAt(p, off+shift); err != nil {
				return err
			}
		}
	}
	return nil
}

// zeros makes a stretch of the file zeros, if it is not so already.
func (d *Disk) zeros(at, length int64, stale bool) error {
	if !stale || length <= 0 {
		return nil
	}
	b := make([]byte, min(length, copyPiece))
	for end := at + length; at < end; at += copyPiece {
		if _, err := d.w.WriteAt(b[:min(copyPiece, end-at)], at); err != nil {
			return err
		}
	}
	return nil
}

// Zero makes length bytes at off read as zeros, and gives back the room of whole
// blocks where the image does not keep it. It is durable after the next Flush.
func (d *Disk) Zero(off, length int64) error {
	return d.each("zero", off, length, true)
}

// Trim says that nobody needs length bytes at off. Whole blocks read as zeros
// from then on or, where the image does not give back room, as they were; the
// rest is left alone.
func (d *Disk) Trim(off, length int64) error {
	if d.meta.Fixed {
		return d.inside("trim", off, length)
	}
	return d.each("trim", off, length, false)
}

func (d *Disk) each(what string, off, length int64, exact bool) error {
	if err := d.inside(what, off, length); err != nil || length == 0 {
		return err
	}
	if err := d.begin(); err != nil {
		return err
	}
	for end := off + length; off < end; {
		block, inside := off/d.BlockSize, off%d.BlockSize
		n := min(end-off, d.BlockSize-inside)
		var err error
		if inside == 0 && n >= d.Used(block) && !d.meta.Fixed {
			err = d.drop(block, exact)
		} else if exact {
			err = d.clear(block, inside, n)
		}
		if err == nil {
			err = d.relieve()
		}
		if err != nil {
			return fmt.Errorf("%s VHDX at %d: %w", what, off, err)
		}
		off += n
	}
	return nil
}

// drop makes a block zeros that take no room.
func (d *Disk) drop(block int64, exact bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, err := d.settled(block)
	if err != nil {
		return err
	}
	switch state(e) {
	case layout.FullyPresent:
		d.freed = join(d.freed, vdisk.Extent{Offset: place(e), Length: d.BlockSize})
	case layout.PartiallyPresent: // its place stays unused until the image is opened again
	case layout.NotPresent:
		if d.parent == nil || !exact {
			return nil
		}
	case layout.Zero:
		return nil
	default: // may read as anything in another reader, which is right for a trim
		if !exact {
			return nil
		}
	}
	return d.table.set(d.Index(block), layout.Zero)
}

// join adds a stretch to a list of at most maxFree. One that touches the last
// becomes a part of it; one too many is forgotten until the image is opened again.
func join(list []vdisk.Extent, e vdisk.Extent) []vdisk.Extent {
	if n := len(list); n > 0 {
		switch last := &list[n-1]; {
		case last.End() == e.Offset:
			last.Length += e.Length
			return list
		case e.End() == last.Offset:
			last.Offset, last.Length = e.Offset, last.Length+e.Length
			return list
		case n >= maxFree:
			return list
		}
	}
	return append(list, e)
}

// clear writes zeros to a part of a block that does not read as zeros already, in
// every reader: blocks that are undefined or unmapped need not.
func (d *Disk) clear(block, inside, length int64) error {
	d.mu.Lock()
	e, err := d.settled(block)
	d.mu.Unlock()
	if state(e) == layout.Zero || state(e) == layout.NotPresent && d.parent == nil {
		return err
	}
	b := make([]byte, min(length, copyPiece))
	for end := inside + length; err == nil && inside < end; inside += copyPiece {
		err = d.write(b[:min(copyPiece, end-inside)], block, inside)
	}
	return err
}

// Extents lists blocks that are in no place of the file as zero or as in the
// parent, the rest as data.
func (d *Disk) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Beneath(ctx, d.Own(ctx, from, to), d.parent, to)
}

// Own is Extents without the parent: what this image does not have is
// vdisk.Inherited.
func (d *Disk) Own(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		err := vdisk.CheckRange(d.DiskSize, from, to)
		for off := from; err == nil && off < to; {
			if err = ctx.Err(); err != nil {
				break
			}
			block := off / d.BlockSize
			end := min(to, (block+1)*d.BlockSize)
			d.mu.Lock()
			var e uint64
			e, err = d.entry(block)
			d.mu.Unlock()
			if err != nil {
				break
			}
			kind := vdisk.Zero
			switch state(e) {
			case layout.FullyPresent:
				kind = vdisk.Data
			case layout.NotPresent:
				if d.parent != nil {
					kind = vdisk.Inherited
				}
			case layout.PartiallyPresent:
				for x, err := range d.reader.Own(ctx, off, end) {
					// It may get bytes at any time where it has zeros now.
					if x.Kind == vdisk.Zero {
						x.Kind = vdisk.Data
					}
					if !yield(x, err) || err != nil {
						return
					}
				}
				off = end
				continue
			}
			if !yield(vdisk.Extent{Offset: off, Length: end - off, Kind: kind}, nil) {
				return
			}
			off = end
		}
		if err != nil {
			yield(vdisk.Extent{}, fmt.Errorf("map VHDX: %w", err))
		}
	})
}
