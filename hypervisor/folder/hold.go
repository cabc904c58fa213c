package folder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder/images"
)

// heldGuest is the Hold of a guest: its files open, leased where possible, and
// a goroutine that gives a lease up when a writer wants it.
type heldGuest struct {
	record []byte
	files  []*heldFile // of all disks, each disk's own before its parents'
	stop   chan struct{}
	done   chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex // guards the rest, and all fields of files that change
	released bool
	changed  error // the first change seen; it stays
}

// heldFile is the image of one of its disks, or one that it is laid on.
type heldFile struct {
	disk     int    // its number
	key      string // the disk's
	parent   bool   // it is not the disk's own image
	carried  string // its path in an exported tree, if it is kept as a file of that
	path     string
	f        *os.File
	was      stamp
	leased   bool   // a lease was had
	unleased string // why not
	broken   bool   // and it was given up for a writer
}

// String names the file in an error.
func (d *heldFile) String() string {
	switch {
	case d.parent:
		return "disk " + d.key + ": parent " + d.path
	case d.carried != "":
		return carriedFile(d.carried)
	}
	return "disk " + d.key
}

func carriedFile(path string) string { return "file " + path + " of the exported tree" }

// nameOf names a disk in an error.
func nameOf(disk hypervisor.Disk) string {
	if disk.Carried {
		return carriedFile(disk.File)
	}
	return "disk " + disk.Key
}

// leasePoll is how often leases are looked at without being told: a signal may
// be lost, and a writer must not wait long.
const leasePoll = 250 * time.Millisecond

// hold opens and leases the files of a guest's disks.
func (d *Driver) hold(ctx context.Context, g hypervisor.Guest) (*heldGuest, error) {
	if len(g.Disks) == 0 {
		return nil, hypervisor.ErrNoDisks
	}
	h := &heldGuest{stop: make(chan struct{}), done: make(chan struct{})}
	// The signal must have its receiver before the first lease is taken.
	wanted := make(chan os.Signal, 1)
	if signals := leaseSignals(); len(signals) > 0 { // without any, Notify means all
		signal.Notify(wanted, signals...)
	}
	go h.watch(wanted)
	for n, disk := range g.Disks {
		if err := d.holdDisk(h, n, disk); err != nil {
			err = fmt.Errorf("%s: %w", nameOf(disk), err)
			if disk.Carried {
				err = fmt.Errorf("%w; without it the tree would not be whole: mend that, or leave the tree out with --no-checkpoints", err)
			}
			return nil, errors.Join(err, h.Release(ctx, false))
		}
	}
	return h, nil
}

// holdDisk holds a disk's file, and then those that it says it is laid on: what a
// file that is held says stays true.
func (d *Driver) holdDisk(h *heldGuest, n int, disk hypervisor.Disk) error {
	f, err := images.OpenFile(disk.Path)
	if err != nil {
		return err
	}
	own := &heldFile{disk: n, key: disk.Key, path: disk.Path, f: f}
	if disk.Carried {
		own.carried = disk.File
	}
	h.add(own)
	image, err := images.Open(disk.Path, disk.Info.Format, images.Folders(d.path))
	if err != nil {
		return err
	}
	below := images.Parents(image)
	if err := image.Close(); err != nil {
		return err
	}
	for _, path := range below {
		f, err := images.OpenParent(path)
		if err != nil {
			return fmt.Errorf("parent: %w", err)
		}
		h.add(&heldFile{disk: n, key: disk.Key, parent: true, path: path, f: f})
	}
	return nil
}

// add takes a file over, and a lease on it if there is one to be had.
func (h *heldGuest) add(file *heldFile) {
	h.mu.Lock()
	defer h.mu.Unlock()
	file.unleased = takeLease(file.f)
	file.leased = file.unleased == ""
	h.files = append(h.files, file)
}

// parents are the held files that disk n is laid on.
func (h *heldGuest) parents(n int) []*heldFile {
	var out []*heldFile
	for _, file := range h.files {
		if file.disk == n && file.parent {
			out = append(out, file)
		}
	}
	return out
}

// watch gives leases up as soon as they are wanted.
func (h *heldGuest) watch(wanted chan os.Signal) {
	defer close(h.done)
	defer signal.Stop(wanted)
	tick := time.NewTicker(leasePoll)
	defer tick.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-wanted:
		case <-tick.C:
		}
		h.mu.Lock()
		h.yield()
		h.mu.Unlock()
	}
}

// yield drops every lease that a writer waits for. h.mu is held.
func (h *heldGuest) yield() {
	for _, d := range h.files {
		if d.leased && !d.broken && !leaseHeld(d.f) {
			dropLease(d.f)
			d.broken = true
		}
	}
}

// Record is the freeze as JSON.
func (h *heldGuest) Record() []byte { return h.record }

// Changed compares each file, and what is at its path, with the record; again
// after a flush, which makes the system stamp what it had put off; and looks
// whether a lease was broken.
func (h *heldGuest) Changed(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return hypervisor.ErrReleased
	}
	for _, d := range h.files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.changed != nil {
			break
		}
		// A flush may take long, and a writer must not wait for it: the mutex
		// is for the lease, so it is lent out meanwhile.
		h.mu.Unlock()
		what, err := d.compare()
		h.mu.Lock()
		if err != nil {
			return fmt.Errorf("%v: %w", d, err)
		}
		h.yield()
		if d.broken {
			what = "it was opened for writing"
		}
		if what != "" && h.changed == nil {
			h.changed = fmt.Errorf("%v: %w: %s", d, hypervisor.ErrChanged, what)
		}
	}
	return h.changed
}

// compare names what differs from the record, or is "".
func (d *heldFile) compare() (string, error) {
	for _, flush := range []bool{false, true} {
		if flush {
			if err := flushFile(d.f); err != nil {
				return "", err
			}
		}
		is, err := stampOf(d.f)
		if err != nil {
			return "", err
		}
		if what := d.was.differs(is); what != "" {
			return what, nil
		}
		held, err := d.f.Stat()
		if err != nil {
			return "", err
		}
		there, err := os.Stat(d.path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return "it is gone from " + d.path, nil
		case err != nil:
			return "", err
		case !os.SameFile(held, there):
			return "another file is at " + d.path, nil
		}
	}
	return "", nil
}

// Release gives leases and files back.
func (h *heldGuest) Release(context.Context, bool) error {
	h.mu.Lock()
	if h.released {
		h.mu.Unlock()
		return nil
	}
	h.released = true
	h.mu.Unlock()
	close(h.stop)
	<-h.done
	var errs []error
	for _, d := range h.files {
		errs = append(errs, d.f.Close()) // which ends the lease
	}
	return errors.Join(errs...)
}

const (
	// settleLeased is how old a file's last change must be before its stamp
	// tells a later one apart: kernels count time for files in ticks of up to
	// 10 ms.
	settleLeased = 25 * time.Millisecond
	// settleOpen is the same for a file that somebody has open for writing. A
	// write stamps the file when it begins; this much longer it may take to
	// end, and would not be seen after that.
	settleOpen = 250 * time.Millisecond
	// settleTries bounds how long a file that is being written is waited for.
	settleTries = 12
)

// settle flushes the file until its stamps neither are too young to tell
// changes apart nor move during the flush. From then on the first write to any
// page moves them: the flush has made all pages clean, and those that became
// dirty after it would have moved them. A leased file has no writer now, but a
// Resume has to tell apart what happens once the lease is gone.
func (d *heldFile) settle(ctx context.Context) error {
	for range settleTries {
		before, err := stampOf(d.f)
		if err != nil {
			return err
		}
		if err := flushFile(d.f); err != nil {
			return err
		}
		after, err := stampOf(d.f)
		if err != nil {
			return err
		}
		age := settleOpen
		if d.leased {
			age = settleLeased
		}
		young := youth(before, age)
		if before == after && young == 0 {
			d.was = after
			return nil
		}
		wait := time.NewTimer(max(young, time.Millisecond))
		select {
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		case <-wait.C:
		}
	}
	return fmt.Errorf("%w: it is being written to", hypervisor.ErrChanged)
}
