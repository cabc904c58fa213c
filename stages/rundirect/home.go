package rundirect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math/bits"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-backup/millrace/restore/live"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/direct"
	"github.com/millrace-backup/millrace/vdisk/raw"
)

// A disk goes home in windows, 64 of which are a unit: as much as is read from the vault at
// once, whose chunks no other unit needs.
const (
	windowSize = 64 << 10
	unitSize   = 64 * windowSize
	// fewDirty is how many windows may be left to copy while the guest stands still.
	fewDirty = 128
	// noteEvery is how often it is made durable and noted how far a disk is.
	noteEvery = 5 * time.Second
	// longestWait is how long a write of the guest waits for the copying to catch up.
	longestWait = time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// unit is what is known of one unit of a home: what was written there last.
type unit struct {
	put  uint64 // a bit for each window that has data; the others are zeros
	sums [64]uint32
}

// mover brings one disk home, to a raw file, while its guest writes. The point's data goes
// first, from the vault and proved; then what the overlay has, and what the guest has
// written meanwhile, as often as needed. Nobody else writes to the file, and a window is written by
// one goroutine at a time, so that nothing old can replace what is new.
type mover struct {
	d    *disk
	base *live.Image
	f    *os.File
	past *direct.File // f, for what is written: nobody reads it soon
	size int64
	tell func(done int64) // that so many bytes more are copied or compared
	used bool             // somebody has copied to the file before, and had not noted all

	mu      sync.Mutex // guards the rest
	room    sync.Cond
	units   map[int64]*unit
	dirty   map[int64]uint64 // windows that the guest has written since they were copied
	left    int              // windows in dirty
	closing bool             // the guest waits while more than fewDirty are left
}

// newMover begins: from now on it is noted what the guest writes. All that the overlay has is
// to be copied, as it is newer than the point. units is what is at home already.
func newMover(ctx context.Context, d *disk, base *live.Image, f *os.File, units map[int64]*unit, tell func(int64)) (*mover, error) {
	m := &mover{d: d, base: base, f: f, past: direct.New(f), size: d.over.Size(), tell: tell, units: units, dirty: map[int64]uint64{}}
	m.room.L = &m.mu
	d.home.Store(m) // before the overlay is looked at: a write is either there, or noted
	for e, err := range d.over.Written(ctx, 0, m.size) {
		if err != nil {
			m.end()
			return nil, err
		}
		if e.Kind != vdisk.Inherited {
			m.touched(e.Offset, e.Length)
		}
	}
	return m, nil
}

// end ends it: the guest's writes are noted no more.
func (m *mover) end() {
	m.d.home.CompareAndSwap(m, nil)
	m.mu.Lock()
	m.closing = false
	m.mu.Unlock()
	m.room.Broadcast()
}

// touched notes that the guest has written, before it is told so.
func (m *mover) touched(off, length int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w := off / windowSize; w <= (off+length-1)/windowSize; w++ {
		if bit := uint64(1) << (w % 64); m.dirty[w/64]&bit == 0 {
			m.dirty[w/64] |= bit
			m.left++
		}
	}
	for end := time.Now().Add(longestWait); m.closing && m.left > fewDirty && time.Now().Before(end); {
		wake := time.AfterFunc(longestWait/10, m.room.Broadcast)
		m.room.Wait()
		wake.Stop()
	}
}

// take takes what is dirty.
func (m *mover) take() map[int64]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.dirty
	m.dirty, m.left = map[int64]uint64{}, 0
	m.room.Broadcast()
	return was
}

func (m *mover) unit(n int64) *unit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.units[n]
}

// put writes windows of a unit, those of mask, which have the bytes in b. over: zeros are
// written, too, as what is there is not known.
func (m *mover) put(n int64, b []byte, mask uint64, over bool) error {
	now := unit{}
	if u := m.unit(n); u != nil {
		now = *u
	}
	write := uint64(0)
	for w := range 64 {
		bit, from := uint64(1)<<w, w*windowSize
		if mask&bit == 0 || from >= len(b) {
			continue
		}
		part := b[from:min(from+windowSize, len(b))]
		if now.put&bit == 0 && zero(part) {
			if there := make([]byte, len(part)); !over {
				continue // as it is
			} else if _, err := m.f.ReadAt(there, n*unitSize+int64(from)); err == nil && zero(there) {
				continue
			}
		}
		now.put, now.sums[w], write = now.put|bit, crc32.Checksum(part, castagnoli), write|bit
	}
	for from, to := range runsOf(write) {
		a, z := from*windowSize, min(to*windowSize, len(b))
		if _, err := m.past.WriteAt(b[a:z], n*unitSize+int64(a)); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.units[n] = &now
	return nil
}

// runsOf lists the runs of bits that are set, from and to.
func runsOf(mask uint64) iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		for mask != 0 {
			from := bits.TrailingZeros64(mask)
			to := from + bits.TrailingZeros64(^(mask >> from))
			if !yield(from, to) {
				return
			}
			if to == 64 {
				return
			}
			mask = mask >> to << to
		}
	}
}

var zeros [windowSize]byte

func zero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// length is that of a unit.
func (m *mover) length(n int64) int64 { return min(unitSize, m.size-n*unitSize) }

// all lists the units in which the point has data.
func (m *mover) all(ctx context.Context) iter.Seq2[int64, error] {
	return func(yield func(int64, error) bool) {
		next := int64(0)
		for e, err := range m.base.Extents(ctx, 0, m.base.Size()) {
			if err != nil {
				yield(0, err)
				return
			}
			if e.Kind != vdisk.Data {
				continue
			}
			for n := max(e.Offset/unitSize, next); n <= (e.End()-1)/unitSize; n++ {
				if !yield(n, nil) {
					return
				}
				next = n + 1
			}
		}
	}
}

// copyPoint copies what the point has.
func (m *mover) copyPoint(ctx context.Context, workers int, note func() error) error {
	var noted atomic.Int64
	noted.Store(time.Now().UnixNano())
	return m.each(ctx, workers, m.all(ctx), func(n int64, b []byte) error {
		if m.unit(n) != nil {
			return nil // by somebody before us
		}
		b = b[:m.length(n)]
		if _, err := (base{m.base}).ReadAt(b, n*unitSize); err != nil {
			return err
		}
		if err := m.put(n, b, ^uint64(0), false); err != nil {
			return err
		}
		if was := noted.Load(); time.Since(time.Unix(0, was)) > noteEvery && noted.CompareAndSwap(was, time.Now().UnixNano()) {
			return note()
		}
		return nil
	})
}

// each calls do for units, several at a time. While the guest is busy with its disk, one worker
// is at it, half of the time.
func (m *mover) each(ctx context.Context, workers int, units iter.Seq2[int64, error], do func(n int64, b []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	list, over := make(chan int64), make(chan struct{})
	g.Go(func() error {
		defer close(list)
		defer close(over)
		for n, err := range units {
			if err != nil {
				return err
			}
			select {
			case list <- n:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for k := range workers {
		g.Go(func() error {
			b := direct.Buffer(unitSize)
			for {
				for waits := k > 0; waits && m.d.busy(); {
					select {
					case <-over:
						waits = false
					case <-time.After(5 * time.Millisecond):
					}
				}
				n, ok := <-list
				if !ok {
					return nil
				}
				begun := time.Now()
				if err := do(n, b); err != nil {
					return err
				}
				m.tell(m.length(n))
				if m.d.busy() {
					time.Sleep(min(time.Since(begun), 100*time.Millisecond))
				}
			}
		})
	}
	return g.Wait()
}

// copyDirty copies what the guest has written, and returns which windows those were.
func (m *mover) copyDirty(ctx context.Context) (map[int64]uint64, error) {
	was := m.take()
	b := direct.Buffer(unitSize)
	for n, mask := range was {
		if ctx.Err() != nil {
			return was, ctx.Err()
		}
		b := b[:m.length(n)]
		for from, to := range runsOf(mask) {
			a, z := from*windowSize, min(to*windowSize, len(b))
			if a >= z {
				continue
			}
			if err := m.d.over.ReadAt(b[a:z], n*unitSize+int64(a), base{m.base}); err != nil {
				return was, err
			}
		}
		if err := m.put(n, b, mask, m.used); err != nil {
			return was, err
		}
	}
	return was, nil
}

// check reads windows back and holds them against what was written. Those of a unit that are
// not in put must be zeros.
func (m *mover) check(n int64, b []byte, mask uint64) error {
	b = b[:m.length(n)]
	if _, err := m.past.ReadBack(b, n*unitSize); err != nil {
		return err
	}
	known := m.unit(n)
	if known == nil {
		known = &unit{}
	}
	for w := range 64 {
		from := w * windowSize
		if mask&(1<<w) == 0 || from >= len(b) {
			continue
		}
		part := b[from:min(from+windowSize, len(b))]
		if known.put&(1<<w) == 0 && !zero(part) || known.put&(1<<w) != 0 && crc32.Checksum(part, castagnoli) != known.sums[w] {
			return fmt.Errorf("%s at %d: what is read back is not what was written", m.f.Name(), n*unitSize+int64(from))
		}
	}
	return nil
}

// checkAll reads the whole file back, from the disk as far as the system lets us. Nobody writes
// to it meanwhile.
func (m *mover) checkAll(ctx context.Context, workers int) error {
	file, err := raw.Open(m.f)
	if err != nil {
		return err
	}
	m.mu.Lock()
	list := make([]int64, 0, len(m.units))
	for n := range m.units {
		list = append(list, n)
	}
	m.mu.Unlock()
	for e, err := range file.Extents(ctx, 0, m.size) {
		if err != nil {
			return err
		}
		for n := e.Offset / unitSize; e.Kind == vdisk.Data && n <= (e.End()-1)/unitSize; n++ {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	forget(m.f)
	return m.each(ctx, workers, func(yield func(int64, error) bool) {
		for _, n := range list {
			if !yield(n, nil) {
				return
			}
		}
	}, func(n int64, b []byte) error { return m.check(n, b, ^uint64(0)) })
}

// bring does all that can be done while the guest runs. When it returns little is left.
func (m *mover) bring(ctx context.Context, workers int, note func() error) error {
	if err := m.copyPoint(ctx, workers, note); err != nil {
		return err
	}
	if _, err := m.copyDirty(ctx); err != nil {
		return err
	}
	if err := errors.Join(m.f.Sync(), note()); err != nil {
		return err
	}
	if err := m.checkAll(ctx, workers); err != nil {
		return err
	}
	return m.follow(ctx, fewDirty)
}

// follow copies until no more than so many windows are left.
func (m *mover) follow(ctx context.Context, most int) error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	for {
		if _, err := m.copyDirty(ctx); err != nil {
			return err
		}
		if err := m.f.Sync(); err != nil {
			return err
		}
		m.mu.Lock()
		left := m.left
		m.mu.Unlock()
		if left <= most {
			return nil
		}
	}
}

// settle copies what is left while the guest stands still. When it returns the file has what
// the disk has, durably.
func (m *mover) settle(ctx context.Context) error {
	last := map[int64]uint64{}
	for {
		was, err := m.copyDirty(ctx)
		if err != nil {
			return err
		}
		if len(was) == 0 {
			break
		}
		for n, mask := range was {
			last[n] |= mask
		}
	}
	if err := m.f.Sync(); err != nil {
		return err
	}
	b := direct.Buffer(unitSize)
	for n, mask := range last {
		if err := m.check(n, b, mask); err != nil {
			return err
		}
	}
	return nil
}
