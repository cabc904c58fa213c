package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/filelock"
)

const (
	unitSize   = 4096
	sectorSize = 512
	maxSize    = 1 << 60

	// A journal of which this many records are of no use any more is written anew.
	leastDead = 1 << 16

	// So many slots of no use any more, or records, may wait for a flush: a guest that never
	// asks for one would fill the disk.
	mostBehind = 1 << 16
)

// Options say what an overlay is over.
type Options struct {
	Size int64  // of the disk in bytes, a multiple of 512
	Over string // what lies beneath; an overlay is not opened over something else
	Seam *Seam  // for tests
}

// Seam is what tests put in the place of a folder's files and of limits.
type Seam struct {
	Data     vdisk.File
	Journals [2]vdisk.File
	Dead     int64 // records of no use that a journal has at least when it is written anew
	Behind   int64 // slots, or records, that may wait for a flush before the overlay does one itself
}

// ErrLocked says that another process has the overlay open.
var ErrLocked = errors.New("overlay is in use")

// Overlay is what was written to a disk. Its methods may be called from many goroutines.
type Overlay struct {
	size  int64
	files []*os.File // to be closed; none in tests

	data     vdisk.File
	journals [2]vdisk.File

	flush sync.Mutex // held by who syncs
	mu    sync.RWMutex
	index *index
	space space
	now   int    // which journal counts
	head  header // its header
	lines int64  // of the journal
	seq   uint64 // of the next record
	wrote uint64 // of the last record that was no marker
	safe  uint64 // records below it are durable
	stale error  // why nothing is written any more
	room  [unitSize]byte
	line  [recordSize]byte

	dead, behind int64       // see Seam
	again        int64       // of the journal's lines, when it is tried once more to write it anew
	late         atomic.Bool // the overlay has to flush itself

	generation atomic.Uint64
}

// Create makes an overlay in a folder that has none; it is fs.ErrExist if there is one. It is
// durable when Create returns, and so is the folder. One whose making was cut short is made
// again.
func Create(folder string, o Options) (*Overlay, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	x, err := openFiles(folder, o, os.O_RDWR|os.O_CREATE)
	if errors.Is(err, ErrLocked) {
		err = errors.Join(err, fs.ErrExist)
	}
	if err != nil {
		return nil, fmt.Errorf("make overlay in %s: %w", folder, err)
	}
	empty, err := x.empty()
	if err == nil && !empty {
		err = fs.ErrExist
	}
	if err == nil {
		err = x.begin(header{epoch: 1, size: o.Size, name: identity(o.Over)})
	}
	if err == nil && o.Seam == nil {
		err = errors.Join(dir.OS().SyncDir(folder), dir.OS().SyncDir(filepath.Dir(folder)))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make overlay in %s: %w", folder, err), x.Close())
	}
	return x, nil
}

// Open takes up the overlay in a folder: ErrLocked while another process has it, ErrOther if
// it is over something else, ErrDamaged if its files are not what was written.
func Open(folder string, o Options) (*Overlay, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	x, err := openFiles(folder, o, os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("open overlay %s: %w", folder, err)
	}
	if err := x.recover(identity(o.Over)); err != nil {
		return nil, errors.Join(fmt.Errorf("open overlay %s: %w", folder, err), x.Close())
	}
	return x, nil
}

func (o Options) check() error {
	if o.Size < 0 || o.Size > maxSize || o.Size%sectorSize != 0 {
		return fmt.Errorf("overlay of a disk of %d bytes: that is no multiple of %d up to 2^60", o.Size, sectorSize)
	}
	return nil
}

func openFiles(folder string, o Options, flag int) (*Overlay, error) {
	x := &Overlay{size: o.Size, index: newIndex(), space: newSpace(), dead: leastDead, behind: mostBehind}
	if s := o.Seam; s != nil {
		x.data, x.journals, x.dead, x.behind = s.Data, s.Journals, cmp.Or(s.Dead, leastDead), cmp.Or(s.Behind, mostBehind)
		return x, nil
	}
	for n, name := range []string{"data", "journal.0", "journal.1"} {
		f, err := os.OpenFile(filepath.Join(folder, name), flag, 0o600)
		if err != nil {
			return nil, errors.Join(err, x.Close())
		}
		x.files = append(x.files, f)
		if n > 0 {
			x.journals[n-1] = file{f}
			continue
		}
		x.data = file{f}
		free, err := filelock.Try(f, 0)
		if err == nil && !free {
			err = ErrLocked
		}
		if err != nil {
			return nil, errors.Join(err, x.Close())
		}
	}
	return x, nil
}

// Close closes the files. What was not flushed is as safe as before.
func (o *Overlay) Close() error {
	o.flush.Lock()
	defer o.flush.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stale == nil {
		o.stale = fmt.Errorf("overlay: %w", fs.ErrClosed)
	}
	var err error
	for _, f := range o.files {
		err = errors.Join(err, f.Close())
	}
	o.files = nil
	return err
}

// begin makes the first journal, and room for the other one's header.
func (o *Overlay) begin(h header) error {
	_, err := o.journals[1].WriteAt(make([]byte, headerSize), 0)
	if err == nil {
		_, err = o.journals[0].WriteAt(h.encode(), 0)
	}
	if err != nil {
		return err
	}
	o.head, o.seq, o.wrote, o.safe = h, 1, 0, 1
	return errors.Join(o.data.Sync(), o.journals[0].Sync(), o.journals[1].Sync())
}

// empty reports whether nothing was ever written: no header is readable, and nothing is where
// only something that has a header has anything.
func (o *Overlay) empty() (bool, error) {
	for n, f := range []vdisk.File{o.data, o.journals[0], o.journals[1]} {
		at := int64(0)
		if n > 0 {
			at = headerSize
			if h, err := readHeader(f); err != nil || h.epoch > 0 {
				return false, err
			}
		}
		if n, err := f.ReadAt(make([]byte, 1), at); n > 0 || !errors.Is(err, io.EOF) {
			return false, err
		}
	}
	return true, nil
}

// headers chooses the journal that counts.
func (o *Overlay) headers(name [32]byte) error {
	for n, f := range o.journals {
		h, err := readHeader(f)
		if err != nil {
			return err
		}
		if h.epoch > o.head.epoch {
			o.head, o.now = h, n
		}
	}
	switch empty, err := o.empty(); {
	case err != nil:
		return err
	case empty:
		return fmt.Errorf("%w: its making was never finished", fs.ErrNotExist)
	case o.head.epoch == 0:
		return fmt.Errorf("%w: neither journal has a readable header", ErrDamaged)
	case o.head.name != name || o.head.size != o.size:
		return fmt.Errorf("%w: of one of %d bytes, wanted is one of %d", ErrOther, o.head.size, o.size)
	}
	return nil
}

// recover reads the journal that counts, keeps what holds up, and makes the other journal
// say so.
func (o *Overlay) recover(name [32]byte) error {
	if err := o.headers(name); err != nil {
		return err
	}
	o.seq = 1
	whole := true
	buf := make([]byte, 256*unitSize)
	far, err := replay(o.journals[o.now], o.head, o.units(), func(r record, tail bool) error {
		o.seq = r.seq + 1
		if r.kind == kindMarker {
			return nil
		}
		if r.kind == kindData && tail {
			if holds, err := o.holds(r, buf); err != nil || !holds {
				whole = false
				return err // never flushed, and its bytes never came: as if it had not been written
			}
		}
		o.put(r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("journal.%d: %w", o.now, err)
	}
	if o.space, err = o.unmapped(); err != nil {
		return err
	}
	// A process that was killed has left things that count and are not durable: its journal
	// has to be before the other one, which is what a power cut would find, is written over.
	if err := errors.Join(o.data.Sync(), o.journals[o.now].Sync()); err != nil {
		return err
	}
	// A crash from here on finds the old journal, or the new one and the same in it.
	err = o.rewrite()
	if o.stale == nil && whole && !far.more && errors.Is(err, syscall.ENOSPC) {
		// All was good, so the old one can go on: the guest can read, and writes when there is room.
		o.lines, o.wrote, o.safe = far.good, o.seq-1, o.seq
		o.space.wait()
		return nil
	}
	return err
}

// holds reports whether the slots of a record have the bytes that it was written for.
func (o *Overlay) holds(r record, buf []byte) (bool, error) {
	var sum uint32
	for n := int64(0); n < r.count; {
		part := buf[:min(int64(len(buf)), (r.count-n)*unitSize)]
		size, err := o.data.ReadAt(part, (r.slot+n)*unitSize)
		if size < len(part) {
			if err == nil || errors.Is(err, io.EOF) {
				return false, nil
			}
			return false, fmt.Errorf("data at %d: %w", (r.slot+n)*unitSize, err)
		}
		sum = crc32.Update(sum, castagnoli, part)
		n += int64(len(part)) / unitSize
	}
	return sum == r.sum, nil
}

// put applies a record to the index.
func (o *Overlay) put(r record) {
	slot := r.slot
	if r.kind == kindZero {
		slot = -1
	}
	mask := r.mask
	if r.kind == kindZero {
		mask = allSectors
	}
	o.index.put(run{unit: r.unit, count: r.count, slot: slot, mask: mask}, o.space.giveBack)
}

// unmapped is the space that no run has. No two runs have the same, and the file has all of it.
func (o *Overlay) unmapped() (space, error) {
	var used []slots
	o.index.tree.Scan(func(r run) bool {
		if r.slot >= 0 {
			used = append(used, slots{r.slot, r.count})
		}
		return true
	})
	slices.SortFunc(used, func(a, b slots) int { return cmp.Compare(a.at, b.at) })
	s := newSpace()
	for _, u := range used {
		if u.at < s.next {
			return s, fmt.Errorf("%w: slot %d is that of two places on the disk", ErrDamaged, u.at)
		}
		if u.at > s.next {
			s.unused(s.next, u.at-s.next)
		}
		s.next = u.at + u.count
	}
	if n, err := o.data.ReadAt(o.room[:1], s.next*unitSize-1); s.next > 0 && n < 1 {
		if errors.Is(err, io.EOF) {
			err = ErrDamaged
		}
		return s, fmt.Errorf("data is shorter than %d bytes: %w", s.next*unitSize, err)
	}
	return s, nil
}

// rewrite makes the journal that does not count say what the index says, durably, and then
// count. All data is durable already. The caller keeps others out. If there is no room for it
// the old one goes on; after any other failure nobody knows which of the two counts, and nothing
// is written any more.
func (o *Overlay) rewrite() error {
	to, h := o.journals[1-o.now], o.head
	// Not the next one: the journal may have records of an attempt that a crash ended, and
	// they must not be taken for this one's.
	h.epoch += 1 + rand.Uint64N(1<<31)
	var lines int64
	var failed error
	buf := make([]byte, 0, 4096*recordSize)
	write := func() {
		if failed == nil && len(buf) > 0 {
			_, failed = to.WriteAt(buf, headerSize+lines*recordSize-int64(len(buf)))
		}
		buf = buf[:0]
	}
	add := func(r record) {
		if len(buf) == cap(buf) {
			write()
		}
		r.seq = o.seq + uint64(lines)
		buf = buf[:len(buf)+recordSize]
		r.encode(buf[len(buf)-recordSize:], h.epoch)
		lines++
	}
	o.index.tree.Scan(func(r run) bool {
		if r.slot < 0 {
			add(record{kind: kindZero, mask: allSectors, unit: r.unit, count: r.count})
		} else {
			add(record{kind: kindData, mask: r.mask, unit: r.unit, count: r.count, slot: r.slot})
		}
		return failed == nil
	})
	write()
	if failed != nil {
		return fmt.Errorf("write journal: %w", failed)
	}
	h.lines = lines
	// The old header goes when the new one is durable: were both there, and a bit of the new
	// one flipped, an older disk would be found. Each step is durable before the next.
	old := o.journals[o.now]
	if failed = to.Sync(); failed == nil {
		_, failed = to.WriteAt(h.encode(), 0)
	}
	if failed == nil {
		failed = to.Sync()
	}
	if failed == nil {
		_, failed = old.WriteAt(make([]byte, headerSize), 0)
	}
	if failed == nil {
		failed = old.Sync()
	}
	if failed != nil {
		return o.fail(fmt.Errorf("write journal: %w", failed))
	}
	o.now, o.head, o.lines, o.again = 1-o.now, h, lines, 0
	o.seq += uint64(lines)
	o.wrote, o.safe = o.seq-1, o.seq
	return nil
}

// fail says that nothing is written any more.
func (o *Overlay) fail(err error) error {
	o.stale = fmt.Errorf("the disk could not make durable what was written, nothing more is: %w", err)
	return o.stale
}

func (o *Overlay) units() int64 { return (o.size + unitSize - 1) / unitSize }

// Size is the disk's, in bytes.
func (o *Overlay) Size() int64 { return o.size }

// Generation grows with every write.
func (o *Overlay) Generation() uint64 { return o.generation.Load() }

// Stats say how large an overlay is, in bytes.
type Stats struct {
	Written int64 // of the disk, whole units
	Data    int64 // of the data file
	Journal int64
	Runs    int // that have to be kept in memory
}

// Stats returns them.
func (o *Overlay) Stats() Stats {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return Stats{Written: o.index.data * unitSize, Data: o.space.next * unitSize, Journal: headerSize + o.lines*recordSize, Runs: o.index.tree.Len()}
}
