package overlay

import (
	"context"
	"fmt"
	"io"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
)

// gap is what a read has to ask the disk beneath for.
type gap struct{ from, to int64 }

// ReadAt fills p with what is at off. What was not written comes from base, which is asked for
// those sectors and no others.
func (o *Overlay) ReadAt(p []byte, off int64, base io.ReaderAt) error {
	if off < 0 || off > o.size-int64(len(p)) {
		return fmt.Errorf("read %d bytes at %d of a disk of %d: %w", len(p), off, o.size, io.ErrUnexpectedEOF)
	}
	var few [8]gap
	gaps := few[:0]
	at, end := off, off+int64(len(p))
	missing := func(from, to int64) {
		if n := len(gaps) - 1; n >= 0 && gaps[n].to == from {
			gaps[n].to = to
		} else if from < to {
			gaps = append(gaps, gap{from, to})
		}
	}
	var err error
	// The lock is held while our own file is read: slots are not given away meanwhile.
	o.mu.RLock()
	o.index.over(off/unitSize, (end+unitSize-1)/unitSize-off/unitSize, func(r run) bool {
		from, to := max(r.unit*unitSize, at), min(r.end()*unitSize, end)
		missing(at, from)
		at = to
		err = o.readRun(p, off, r, from, to, missing)
		return err == nil
	})
	o.mu.RUnlock()
	if err != nil {
		return err
	}
	missing(at, end)
	for _, g := range gaps {
		if n, err := base.ReadAt(p[g.from-off:g.to-off], g.from); n < int(g.to-g.from) {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read what lies under the overlay: %w", err)
		}
	}
	return nil
}

// readRun reads what lies in [from, to) of a run into p, which begins at off.
func (o *Overlay) readRun(p []byte, off int64, r run, from, to int64, missing func(from, to int64)) error {
	if r.slot < 0 {
		clear(p[from-off : to-off])
		return nil
	}
	base := r.slot*unitSize - r.unit*unitSize // where the disk's byte 0 would be in the file
	read := func(from, to int64) error {
		if n, err := o.data.ReadAt(p[from-off:to-off], base+from); n < int(to-from) {
			return fmt.Errorf("read overlay at %d: %w", base+from, err)
		}
		return nil
	}
	if r.mask == allSectors {
		return read(from, to)
	}
	for from < to {
		next := min(to, (from/sectorSize+1)*sectorSize)
		if r.mask&(1<<(from%unitSize/sectorSize)) == 0 {
			missing(from, next)
		} else if err := read(from, next); err != nil {
			return err
		}
		from = next
	}
	return nil
}

// Written lists what the overlay has of [from, to), in order and without gaps: Data, Zero,
// and Inherited for what it does not have. It shows one instant.
func (o *Overlay) Written(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		if from < 0 || to < from || to > o.size {
			yield(vdisk.Extent{}, fmt.Errorf("bytes %d to %d of a disk of %d", from, to, o.size))
			return
		}
		o.mu.Lock()
		still := index{tree: o.index.tree.Copy()}
		o.mu.Unlock()
		var now vdisk.Extent
		add := func(a, b int64, kind vdisk.Kind) bool {
			if a >= b {
				return true
			}
			if now.Length > 0 && now.Kind == kind {
				now.Length += b - a
				return true
			}
			last := now
			now = vdisk.Extent{Offset: a, Length: b - a, Kind: kind}
			return last.Length == 0 || yield(last, nil)
		}
		at, more := from, true
		still.over(from/unitSize, (to+unitSize-1)/unitSize-from/unitSize, func(r run) bool {
			a, b := max(r.unit*unitSize, at), min(r.end()*unitSize, to)
			more = ctx.Err() == nil && add(at, a, vdisk.Inherited)
			for at = a; more && at < b; {
				next, kind := b, vdisk.Data
				switch {
				case r.slot < 0:
					kind = vdisk.Zero
				case r.mask != allSectors:
					next = min(b, (at/sectorSize+1)*sectorSize)
					if r.mask&(1<<(at%unitSize/sectorSize)) == 0 {
						kind = vdisk.Inherited
					}
				}
				more = add(at, next, kind)
				at = next
			}
			return more
		})
		switch {
		case ctx.Err() != nil:
			yield(vdisk.Extent{}, ctx.Err())
		case more && add(at, to, vdisk.Inherited) && now.Length > 0:
			yield(now, nil)
		}
	}
}
