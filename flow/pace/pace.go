package pace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/meter"
	"github.com/millrace-backup/millrace/vdisk/filelock"
)

const (
	burst    = 250 * time.Millisecond // of what has not passed for a while may pass at once
	piece    = 1 << 20                // bytes that are let through at once
	gather   = 256 << 10              // bytes that are not worth asking for
	glance   = 100 * time.Millisecond // after which who waits looks whether the rate is another
	patience = time.Second            // how long a lock is waited for
	lockAt   = 1 << 20                // the byte that is locked on Windows: none that is read
)

// Pace is this process's access to a rate that it shares. A nil Pace is no limit.
// It may be used by several goroutines.
type Pace struct {
	base int64
	// Sleeping, if set before the first Wait, is called when a Wait begins to sleep,
	// and what it returns when it has slept.
	Sleeping func() (done func())

	clock func() time.Duration
	sleep func(context.Context, time.Duration) error

	mu   sync.Mutex // of these; a lock of the file is one for the process
	f    *os.File
	owed int64         // bytes that have passed and were not yet asked for
	last time.Duration // due as this process left it
}

// state is what the file holds.
type state struct {
	rate int64
	due  time.Duration
}

// Path is the file of a stage in a job's folder.
func Path(folder, stage string) string { return filepath.Join(folder, "pace-"+stage) }

// Rates are those of a job's stages as they are now, of those that have a limit. It
// is for who only looks: nothing is made or locked.
func Rates(folder string) map[string]int64 {
	rates := map[string]int64{}
	for _, stage := range []string{flow.Reader, flow.Uploader} {
		f, err := os.Open(Path(folder, stage))
		if err != nil {
			continue
		}
		if s, ok := (&Pace{f: f}).read(); ok && s.rate > 0 {
			rates[stage] = s.rate
		}
		_ = f.Close()
	}
	return rates
}

// Of is the pace of a worker's stage, which counts as blocked while it waits for it.
func Of(w *flow.Worker) (*Pace, error) {
	p, err := Open(Path(w.Config.Folder, w.Config.Stage), w.Config.Work.Limits[w.Config.Stage])
	if err != nil {
		return nil, err
	}
	p.Sleeping = func() func() { return w.Meter.Enter(meter.Blocked) }
	return p, nil
}

// Open shares the rate in a file. base is the rate if there is no file yet, and
// whenever it is found damaged: bytes a second, 0 for no limit.
func Open(path string, base int64) (*Pace, error) { return open(path, base, now, rest) }

func open(path string, base int64, clock func() time.Duration, sleep func(context.Context, time.Duration) error) (*Pace, error) {
	if base < 0 {
		return nil, fmt.Errorf("set pace: a rate of %d", base)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("share a pace: %w", err)
	}
	p := &Pace{base: base, clock: clock, sleep: sleep, f: f}
	defer p.lock()()
	if _, ok := p.read(); !ok {
		err = p.write(state{rate: base})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("share a pace: %w", err), f.Close())
	}
	return p, nil
}

// Close gives the file back. The rate stays for others.
func (p *Pace) Close() error {
	if p == nil {
		return nil
	}
	return p.f.Close()
}

// Rate is the rate as it is now, 0 for no limit.
func (p *Pace) Rate() int64 {
	if p == nil {
		return 0
	}
	if s, ok := p.read(); ok {
		return s.rate
	}
	defer p.lock()() // it may be half written
	return p.current().rate
}

// Set changes the rate for all who share it.
func (p *Pace) Set(rate int64) error {
	if rate < 0 {
		return fmt.Errorf("set pace: a rate of %d", rate)
	}
	defer p.lock()()
	s := p.current()
	s.rate = rate
	if err := p.write(s); err != nil {
		return fmt.Errorf("set pace: %w", err)
	}
	return nil
}

// Wait returns when n bytes may pass. A few may pass before they are asked for; they
// are counted with the next.
func (p *Pace) Wait(ctx context.Context, n int64) error {
	if p == nil || n <= 0 {
		return nil
	}
	p.mu.Lock()
	p.owed += n
	ask := p.owed
	if ask < gather {
		p.mu.Unlock()
		return nil
	}
	p.owed = 0
	p.mu.Unlock()
	for ; ask > 0; ask -= piece {
		if s, ok := p.read(); ok && s.rate == 0 {
			return nil
		}
		if err := p.pass(ctx, min(ask, piece)); err != nil {
			return err
		}
	}
	return nil
}

// pass lets n bytes through, at most a piece.
func (p *Pace) pass(ctx context.Context, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wait := p.take(n)
	if wait <= 0 {
		return nil
	}
	if p.Sleeping != nil {
		defer p.Sleeping()()
	}
	for ; wait > 0; wait = p.take(n) {
		if err := p.sleep(ctx, min(wait, glance)); err != nil {
			return err
		}
	}
	return nil
}

// take lets n bytes through at once, or says how long to wait before asking again.
func (p *Pace) take(n int64) (wait time.Duration) {
	defer p.lock()()
	s := p.current()
	if s.rate == 0 {
		return 0
	}
	now := p.clock()
	s.due = max(s.due, now)
	far := now + burst + cost(piece, s.rate)
	if wait = min(s.due, far) - burst - now; wait <= 0 {
		s.due += cost(n, s.rate)
	} else if s.due <= far {
		return wait
	}
	s.due = min(s.due, far)
	p.last = s.due
	_ = p.write(s) // if it stays as it was, last is this process's own account
	return max(wait, 0)
}

// cost is how long n bytes take, at most a piece.
func cost(n, rate int64) time.Duration { return time.Duration(n * int64(time.Second) / rate) }

// current is the state, under the lock: where the file is no good, the rate is base.
func (p *Pace) current() state {
	s, ok := p.read()
	if !ok {
		s = state{rate: p.base}
	}
	s.due = max(s.due, p.last)
	return s
}

// lock keeps others from the file for a moment, and returns how to let them again.
func (p *Pace) lock() (unlock func()) {
	p.mu.Lock()
	ok, err := filelock.Try(p.f, lockAt)
	for pause, left := 50*time.Microsecond, patience; !ok && err == nil && left > 0; pause *= 2 {
		pause = min(pause, left, 5*time.Millisecond)
		time.Sleep(pause)
		left -= pause
		ok, err = filelock.Try(p.f, lockAt)
	}
	return func() {
		if ok {
			_ = filelock.Free(p.f, lockAt)
		}
		p.mu.Unlock()
	}
}

// The file: magic, rate, due, and a checksum of those.
const (
	magic = "mrpace1\n"
	size  = len(magic) + 8 + 8 + 4
)

func (p *Pace) read() (s state, ok bool) {
	var b [size]byte
	if n, _ := p.f.ReadAt(b[:], 0); n < size {
		return s, false
	}
	s.rate = int64(binary.LittleEndian.Uint64(b[8:]))
	s.due = time.Duration(binary.LittleEndian.Uint64(b[16:]))
	sound := string(b[:8]) == magic && binary.LittleEndian.Uint32(b[24:]) == crc32.ChecksumIEEE(b[:24])
	return s, sound && s.rate >= 0 && s.due >= 0
}

func (p *Pace) write(s state) error {
	b := append(make([]byte, 0, size), magic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.rate))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.due))
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	_, err := p.f.WriteAt(b, 0)
	return err
}

// rest sleeps, unless ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
