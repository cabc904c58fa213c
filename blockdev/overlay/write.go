package overlay

import (
	"fmt"
	"hash/crc32"
	"syscall"
)

// within is an error for a range that is not of whole sectors of the disk.
func (o *Overlay) within(off, length int64) error {
	if off < 0 || length < 0 || off > o.size-length || (off|length)%sectorSize != 0 {
		return fmt.Errorf("bytes %d to %d of a disk of %d, in sectors of %d: %w", off, off+length, o.size, sectorSize, syscall.EINVAL)
	}
	return nil
}

// WriteAt writes whole sectors. It is not durable before the next Flush, and survives the end
// of the process.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	if err := o.within(off, int64(len(p))); err != nil {
		return 0, fmt.Errorf("write to overlay: %w", err)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n, err := 0, error(nil)
		if in := at % unitSize; in != 0 || len(p)-done < unitSize && at+int64(len(p)-done) < o.size {
			n = min(len(p)-done, int(unitSize-in))
			err = o.writePart(p[done:done+n], at)
		} else if n = (len(p) - done) / unitSize * unitSize; n > 0 {
			err = o.writeUnits(p[done:done+n], at/unitSize)
		} else { // the disk ends inside this unit
			n = len(p) - done
			err = o.writePart(p[done:], at)
		}
		if err != nil {
			return done, fmt.Errorf("write to overlay: %w", err)
		}
		done += n
	}
	o.relieve()
	return done, nil
}

// relieve flushes for a guest that has not done so for very long. If it fails the next call says
// so: what was written is as well off as it was.
func (o *Overlay) relieve() {
	if o.late.Swap(false) {
		_ = o.Flush()
	}
}

// writeUnits writes whole units.
func (o *Overlay) writeUnits(p []byte, unit int64) error {
	r := record{kind: kindData, mask: allSectors, unit: unit, count: int64(len(p)) / unitSize}
	o.mu.Lock()
	if o.stale != nil {
		defer o.mu.Unlock()
		return o.stale
	}
	r.slot = o.space.take(r.count)
	o.mu.Unlock()
	// Nobody else knows these slots: no lock is needed while the bytes go there.
	r.sum = crc32.Checksum(p, castagnoli)
	_, err := o.data.WriteAt(p, r.slot*unitSize)
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.settle(r, err)
}

// settle notes a record whose bytes are written, or gives its slots back.
func (o *Overlay) settle(r record, err error) error {
	if err != nil {
		o.space.unused(r.slot, r.count)
		return err
	}
	// Bytes before record: a kill in between leaves slots that nothing names.
	if err = o.note(r); err != nil {
		// The record may be there all the same, until the next one takes its place.
		o.space.giveBack(r.slot, r.count)
	}
	return err
}

// writePart writes sectors of one unit. Those that the overlay has of it already go to the new
// slot with them.
func (o *Overlay) writePart(p []byte, off int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stale != nil {
		return o.stale
	}
	unit, in := off/unitSize, off%unitSize
	r := record{kind: kindData, unit: unit, count: 1}
	clear(o.room[:])
	var old run
	o.index.over(unit, 1, func(found run) bool { old = found; return true })
	switch {
	case old.count == 0:
	case old.slot < 0:
		r.mask = allSectors
	default:
		if _, err := o.data.ReadAt(o.room[:], (old.slot+unit-old.unit)*unitSize); err != nil {
			return fmt.Errorf("read what was written before: %w", err)
		}
		r.mask = old.mask
	}
	copy(o.room[in:], p)
	for s := in / sectorSize; s < (in+int64(len(p)))/sectorSize; s++ {
		r.mask |= 1 << s
	}
	r.slot, r.sum = o.space.take(1), crc32.Checksum(o.room[:], castagnoli)
	_, err := o.data.WriteAt(o.room[:], r.slot*unitSize)
	return o.settle(r, err)
}

// note appends a record and applies it. The caller holds the lock.
func (o *Overlay) note(r record) error {
	if o.stale != nil {
		return o.stale
	}
	r.seq = o.seq
	r.encode(o.line[:], o.head.epoch)
	// A record that is there in part is written over by the next one.
	if _, err := o.journals[o.now].WriteAt(o.line[:], headerSize+o.lines*recordSize); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	o.seq++
	o.lines++
	if r.kind != kindMarker {
		o.wrote = r.seq
		o.put(r)
		o.generation.Add(1)
		if o.space.waits > o.behind || o.seq-o.safe > uint64(o.behind)*16 {
			o.late.Store(true)
		}
	}
	return nil
}

// Trim makes whole sectors read as zeros and gives their room back.
func (o *Overlay) Trim(off, length int64) error { return o.WriteZeroes(off, length) }

// WriteZeroes makes whole sectors read as zeros. However many they are, it is one record
// and takes no room, but for units that it has only parts of.
func (o *Overlay) WriteZeroes(off, length int64) error {
	if err := o.within(off, length); err != nil {
		return fmt.Errorf("zero in overlay: %w", err)
	}
	end := off + length
	first, last := (off+unitSize-1)/unitSize, end/unitSize
	if end == o.size {
		last = o.units()
	}
	if first >= last { // all of it is inside a unit or two
		return o.zeroParts(off, min(end, first*unitSize), end)
	}
	if err := o.zeroParts(off, first*unitSize, first*unitSize); err != nil {
		return err
	}
	o.mu.Lock()
	err := o.note(record{kind: kindZero, mask: allSectors, unit: first, count: last - first})
	o.mu.Unlock()
	if err != nil {
		return fmt.Errorf("zero in overlay: %w", err)
	}
	err = o.zeroParts(min(last*unitSize, end), end, end)
	o.relieve()
	return err
}

// zeroParts writes zeros to [a, b) and [b, c), neither of which is a whole unit.
func (o *Overlay) zeroParts(a, b, c int64) error {
	var zeros [unitSize]byte
	for _, r := range [2][2]int64{{a, b}, {b, c}} {
		if r[1] <= r[0] {
			continue
		}
		if err := o.writePart(zeros[:r[1]-r[0]], r[0]); err != nil {
			return fmt.Errorf("zero in overlay: %w", err)
		}
	}
	return nil
}

// Flush returns when all that was written before is durable. After an error nothing is
// written any more: what the system has lost it does not lose a second time, and another
// Flush would seem to succeed.
func (o *Overlay) Flush() error {
	o.mu.RLock()
	want, err := o.wrote, o.stale
	o.mu.RUnlock()
	if err != nil {
		return fmt.Errorf("flush overlay: %w", err)
	}
	o.flush.Lock()
	defer o.flush.Unlock()
	o.mu.Lock()
	if o.stale != nil || want < o.safe { // somebody else's flush has done it
		defer o.mu.Unlock()
		return o.stale
	}
	journal, until := o.journals[o.now], o.seq
	freed, free := o.space.fresh, o.space.synced
	o.space.fresh, o.space.synced, o.space.waits = nil, nil, 0
	o.mu.Unlock()

	failed := make(chan error, 1)
	go func() { failed <- journal.Sync() }()
	err = o.data.Sync()
	if journalErr := <-failed; err == nil {
		err = journalErr
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		return fmt.Errorf("flush overlay: %w", o.fail(err))
	}
	o.safe = until
	// The marker that says so for these slots was part of this flush.
	for _, f := range free {
		o.space.unused(f.at, f.count)
	}
	if o.note(record{kind: kindMarker, unit: int64(until)}) == nil {
		o.space.synced = freed
	} else {
		o.space.fresh = append(o.space.fresh, freed...) // no room for the marker: they wait for the next
	}
	if dead := o.lines - int64(o.index.tree.Len()); dead > o.dead && dead > o.lines/4*3 && o.lines >= o.again {
		o.compact()
	}
	return nil
}

// compact writes the journal anew. If there is no room for that the old one goes on.
func (o *Overlay) compact() {
	// What came since the flush is durable too before the new journal says that it is.
	if err := o.data.Sync(); err != nil {
		_ = o.fail(err)
		return
	}
	waited := append(o.space.fresh, o.space.synced...)
	if o.rewrite() != nil {
		o.again = 2 * o.lines
		return
	}
	o.space.fresh, o.space.synced, o.space.waits = nil, nil, 0
	for _, f := range waited {
		o.space.unused(f.at, f.count)
	}
}
