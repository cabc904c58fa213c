package inplace

import (
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vhdx/journal"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// ring is where the log is and how far it is written.
type ring struct {
	at, length int64
	next       int64 // place in the ring of the next entry
	sequence   uint64
	id         layout.GUID // zero until the first entry
}

// Flush makes everything durable that was written before it was called.
func (d *Disk) Flush() error {
	d.flushing.Lock()
	defer d.flushing.Unlock()
	if err := d.failed(); err != nil {
		return err
	}
	if err := d.flush(); err != nil {
		return d.fail(err)
	}
	return nil
}

func (d *Disk) flush() error {
	var freed []vdisk.Extent
	for {
		d.mu.Lock()
		sectors, pages := d.table.take()
		more, end := len(sectors) == maxSectors, d.end
		for _, e := range d.freed {
			freed = join(freed, e)
		}
		d.freed = nil
		d.mu.Unlock()

		// Data before the entry that names it: a crash before this line leaves the
		// table of the flush before. It also makes durable what the entry before
		// changed in place, so that this entry may take its turn.
		if err := d.w.Sync(); err != nil {
			return err
		}
		if len(sectors) == 0 {
			break
		}
		if err := d.commit(sectors, end); err != nil {
			return err
		}
		d.mu.Lock()
		d.table.done(pages)
		d.mu.Unlock()
		if !more {
			break
		}
	}
	d.release(freed)
	return nil
}

// commit makes changes of the table durable and then makes them in place.
func (d *Disk) commit(sectors []journal.Sector, end int64) error {
	first := d.log.id.IsZero()
	if first {
		var err error
		if d.log.id, err = layout.NewGUID(d.random); err != nil {
			return err
		}
	}
	d.log.sequence++
	// The entry is its own tail: what came before it is durable in place.
	entry := journal.Entry{GUID: d.log.id, Sequence: d.log.sequence, Tail: uint32(d.log.next), Flushed: end, Last: end, Sectors: sectors}
	if err := d.log.write(d.w, entry.Bytes()); err != nil {
		return err
	}
	// Log entry before the table in place: a crash before this line leaves the
	// entry before as the newest one, and the table as that left it.
	if err := d.w.Sync(); err != nil {
		return err
	}
	if first {
		// A crash before this line leaves headers that say the log is empty, and a
		// table that nobody has touched.
		d.header.LogGUID = d.log.id
		if err := d.writeHeaders(); err != nil {
			return err
		}
	}
	for _, s := range sectors {
		if _, err := d.w.WriteAt(s.Bytes, s.Offset); err != nil {
			return err
		}
	}
	return nil
}

// write puts an entry into the ring.
func (r *ring) write(w vdisk.File, b []byte) error {
	n := min(int64(len(b)), r.length-r.next)
	if _, err := w.WriteAt(b[:n], r.at+r.next); err != nil {
		return err
	}
	if n < int64(len(b)) {
		if _, err := w.WriteAt(b[n:], r.at); err != nil {
			return err
		}
	}
	r.next = (r.next + int64(len(b))) % r.length
	return nil
}

// release lets the places of blocks be used again that the durable table does not
// name any more, once nobody reads or writes there.
func (d *Disk) release(freed []vdisk.Extent) {
	if len(freed) == 0 {
		return
	}
	d.use.Lock()
	d.use.Unlock() //nolint:staticcheck // whoever had a place from the old table is done with it
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range freed {
		d.free = join(d.free, e)
	}
}

// Close flushes the disk and leaves the file with an empty log. A file that was
// given to Open is the caller's to close, that of Path is closed. No other call may
// be under way; all later ones fail.
func (d *Disk) Close() error {
	err := d.Flush()
	d.flushing.Lock()
	defer d.flushing.Unlock()
	if err == nil && !d.log.id.IsZero() {
		err = d.settle()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if errors.Is(d.err, errClosed) {
		return nil
	}
	if d.err == nil {
		d.err = errClosed
	}
	if d.own != nil {
		err = errors.Join(err, d.own.Close())
		d.own = nil
	}
	return err
}

// settle ends the use of the log.
func (d *Disk) settle() error {
	// The table in place before the header that says no log is needed: a crash
	// before this line replays the newest entry again.
	if err := d.w.Sync(); err != nil {
		return fmt.Errorf("close VHDX: %w", err)
	}
	d.header.LogGUID, d.log.id = layout.GUID{}, layout.GUID{}
	if err := d.writeHeaders(); err != nil {
		return fmt.Errorf("close VHDX: %w", err)
	}
	return nil
}
