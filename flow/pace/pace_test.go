package pace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// watch is a clock that only sleeping moves.
type watch struct {
	mu    sync.Mutex
	now   time.Duration
	slept time.Duration
}

func (w *watch) clock() time.Duration { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *watch) sleep(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.slept = w.now+d, w.slept+d
	return ctx.Err()
}

func (w *watch) open(t *testing.T, path string, base int64) *Pace {
	t.Helper()
	p, err := open(path, base, w.clock, w.sleep)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func wait(t *testing.T, p *Pace, n int64) {
	t.Helper()
	if err := p.Wait(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

const mib = 1 << 20

// least is how long bytes take at a rate when all that may pass at once has, and most
// when nothing has.
func least(bytes, rate int64) time.Duration { return most(bytes-piece, rate) - burst }
func most(bytes, rate int64) time.Duration {
	return time.Duration(float64(bytes) / float64(rate) * 1e9)
}

// TestRate: so many bytes take as long as they must, and no longer, in pieces of any
// size and through any number of doors.
func TestRate(t *testing.T) {
	for name, c := range map[string]struct{ rate, each, bytes int64 }{
		"parcels":        {10 * mib, 8 * mib, 160 * mib},
		"pieces":         {200 * mib, mib, 600 * mib},
		"chunks":         {10 * mib, 40_000, 40_000_000},
		"a few":          {64 << 10, 10, 1_000_000},
		"odd":            {1_234_567, 777_777, 77_777_700},
		"a slow parcel":  {64 << 10, 32 * mib, 64 * mib},
		"a byte each ns": {1 << 30, 4 * mib, 1 << 31},
	} {
		t.Run(name, func(t *testing.T) {
			w, path := &watch{now: time.Hour}, filepath.Join(t.TempDir(), "pace")
			doors := []*Pace{w.open(t, path, c.rate), w.open(t, path, 1), w.open(t, path, 0)}
			for n := int64(0); n < c.bytes; n += c.each {
				wait(t, doors[n/c.each%3], c.each)
			}
			gathered := int64(len(doors) * gather)
			if at, to := least(c.bytes-gathered, c.rate), most(c.bytes, c.rate); w.slept < at || w.slept > to {
				t.Errorf("%d bytes at %d took %v, must be %v to %v", c.bytes, c.rate, w.slept, at, to)
			}
		})
	}
}

// TestSetWhileOneWaits: who waits sees another rate, and that there is none any more.
func TestSetWhileOneWaits(t *testing.T) {
	w, path := &watch{}, Path(t.TempDir(), "reader")
	p, other := w.open(t, path, 64<<10), w.open(t, path, 0)
	if r := other.Rate(); r != 64<<10 {
		t.Fatalf("rate %d", r)
	}
	at := w.slept
	sleep := p.sleep
	for _, rate := range []int64{1 << 30, 0} {
		p.sleep = sleep
		if err := other.Set(64 << 10); err != nil {
			t.Fatal(err)
		}
		wait(t, p, mib)
		p.sleep = func(ctx context.Context, d time.Duration) error {
			_ = sleep(ctx, d)
			return other.Set(rate)
		}
		at = w.slept
		wait(t, p, mib)
		if took := w.slept - at; took > 2*glance || took == 0 {
			t.Errorf("from then on %d: waited %v", rate, took)
		}
	}
	p.sleep = sleep
	at = w.slept
	if wait(t, p, 1<<40); w.slept != at || p.Rate() != 0 {
		t.Errorf("waited %v, rate %d", w.slept-at, p.Rate())
	}
	if got := Rates(filepath.Dir(path)); len(got) != 0 {
		t.Errorf("rates %v", got)
	}
	if other.Set(-1) == nil {
		t.Error("a rate below 0 was taken")
	}
	if err := other.Set(mib); err != nil {
		t.Fatal(err)
	}
	if got := Rates(filepath.Dir(path)); len(got) != 1 || got["reader"] != mib {
		t.Errorf("rates %v", got)
	}
	at = w.slept
	if wait(t, p, 8*mib); w.slept-at < least(8*mib, mib) {
		t.Errorf("after a time without limit: waited %v", w.slept-at)
	}
}

// TestClockJumps: an hour forth is a burst, an hour back is a piece's wait, no more.
func TestClockJumps(t *testing.T) {
	w := &watch{now: 5 * time.Hour}
	p := w.open(t, filepath.Join(t.TempDir(), "pace"), 10*mib)
	wait(t, p, 10*mib)
	for name, jump := range map[string]time.Duration{"back": -time.Hour, "forth": time.Hour} {
		w.now += jump
		at := w.slept
		wait(t, p, 10*mib)
		if took := w.slept - at; took < least(10*mib, 10*mib) || took > most(11*mib, 10*mib)+burst {
			t.Errorf("%s: waited %v for a second's bytes", name, took)
		}
	}
}

// TestDamage: the rate that Open was given holds, the file is mended, and nothing
// passes for free.
func TestDamage(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"short": func(path string) error { return os.Truncate(path, int64(size)-1) },
		"zeros": func(path string) error { return os.WriteFile(path, make([]byte, size), 0o600) },
		"other text": func(path string) error {
			return os.WriteFile(path, []byte("what is this, and who has written it?"), 0o600)
		},
		"a bit": func(path string) error {
			b, err := os.ReadFile(path)
			if err == nil {
				b[9] ^= 0x40
				err = os.WriteFile(path, b, 0o600)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, path := &watch{}, filepath.Join(t.TempDir(), "pace")
			p := w.open(t, path, 10*mib)
			if err := p.Set(0); err != nil {
				t.Fatal(err)
			}
			wait(t, p, 1<<40)
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			if r := p.Rate(); r != 10*mib {
				t.Errorf("rate %d", r)
			}
			wait(t, p, 10*mib)
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			wait(t, p, 10*mib)
			if w.slept < least(20*mib, 10*mib) {
				t.Errorf("20 MiB at 10 MiB/s took %v", w.slept)
			}
			if r := w.open(t, path, 0).Rate(); r != 10*mib {
				t.Errorf("the file was not mended: rate %d", r)
			}
		})
	}
}

// TestAlone: who can neither read nor write the file any more keeps to the rate.
func TestAlone(t *testing.T) {
	w := &watch{}
	p := w.open(t, filepath.Join(t.TempDir(), "pace"), 10*mib)
	_ = p.f.Close()
	if wait(t, p, 20*mib); w.slept < least(20*mib, 10*mib) || w.slept > most(20*mib, 10*mib) {
		t.Errorf("20 MiB at 10 MiB/s took %v", w.slept)
	}
	if p.Set(5) == nil {
		t.Error("a rate that nobody has written was set")
	}
}

// TestEnd: a wait ends with its context, however long it would be.
func TestEnd(t *testing.T) {
	p, err := Open(filepath.Join(t.TempDir(), "pace"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	slept := 0
	p.Sleeping = func() func() { slept++; return func() { slept += 10 } }
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if err := p.Wait(ctx, 4*mib); !errors.Is(err, context.DeadlineExceeded) || slept != 11 {
		t.Errorf("%v; sleeping and awake again: %d", err, slept)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none", "pace"), 1); err == nil {
		t.Error("opened in no folder")
	}
	if _, err := Open(filepath.Join(t.TempDir(), "pace"), -1); err == nil {
		t.Error("opened with a rate below 0")
	}
}

// TestNone: a Pace that is nil waits for nothing.
func TestNone(t *testing.T) {
	var p *Pace
	wait(t, p, 1<<50)
	if p.Rate() != 0 || p.Close() != nil {
		t.Error("it has a rate, or is not closed")
	}
}

func BenchmarkUnlimited(b *testing.B) { benchmark(b, 0) }
func BenchmarkLimited(b *testing.B)   { benchmark(b, 1<<60) }

func benchmark(b *testing.B, rate int64) {
	p, err := Open(filepath.Join(b.TempDir(), "pace"), rate)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	b.SetBytes(piece)
	for b.Loop() {
		if err := p.Wait(b.Context(), piece); err != nil {
			b.Fatal(err)
		}
	}
}
