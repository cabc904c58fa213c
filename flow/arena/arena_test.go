package arena

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var small = Shape{RawSlots: 3, SealedSlots: 2, RawSize: pageBytes, SealedSize: 2*pageBytes + 100, RecentEntries: 64}

func newArena(t testing.TB, s Shape) *Arena {
	t.Helper()
	a, err := New(s)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this system has no shared memory for arenas:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// mustAcquire takes a slot that is known to be free.
func mustAcquire(t testing.TB, a *Arena, p Pool, owner uint32) Slot {
	t.Helper()
	s, ok := a.TryAcquire(p, owner)
	if !ok {
		t.Fatalf("no slot of pool %d is free", p)
	}
	return s
}

func wantUsage(t *testing.T, a *Arena, p Pool, free, filling, full int) {
	t.Helper()
	if f, g, h := a.Usage(p); f != free || g != filling || h != full {
		t.Fatalf("pool %d: %d free, %d filling, %d full; want %d, %d, %d", p, f, g, h, free, filling, full)
	}
}

func TestShapesAreBounded(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Shape)
		ok     bool
	}{
		{"as it is", func(*Shape) {}, true},
		{"no raw slots", func(s *Shape) { s.RawSlots = 0 }, false},
		{"no sealed slots", func(s *Shape) { s.SealedSlots = 0 }, false},
		{"negative", func(s *Shape) { s.SealedSlots = -1 }, false},
		{"too many", func(s *Shape) { s.RawSlots = maxSlots + 1 }, false},
		{"slots below a page", func(s *Shape) { s.RawSize = pageBytes - 1 }, false},
		{"huge slots", func(s *Shape) { s.SealedSize = 1<<30 + 1 }, false},
		{"more than an arena", func(s *Shape) { s.RawSlots, s.RawSize = maxSlots, 1<<30 }, false},
		{"entries not a power of two", func(s *Shape) { s.RecentEntries = 65 }, false},
		{"negative entries", func(s *Shape) { s.RecentEntries = math.MinInt }, false},
		{"no entries", func(s *Shape) { s.RecentEntries = 0 }, true},
	} {
		s := small
		c.change(&s)
		a, err := New(s)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrArena) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			if a.Shape() != s {
				t.Errorf("%s: %+v became %+v", c.name, s, a.Shape())
			}
			_ = a.Close()
		}
	}
}

func TestSlotsDoNotOverlap(t *testing.T) {
	a := newArena(t, small)
	for n := range uint32(5) {
		b := a.Bytes(n)
		if want := map[bool]int{true: small.RawSize, false: small.SealedSize}[n < 3]; len(b) != want || cap(b) != want {
			t.Fatalf("slot %d has %d of %d bytes, want %d", n, len(b), cap(b), want)
		}
		for i := range b {
			b[i] = byte(n + 1)
		}
	}
	a.Recent().Add(chunkID(1, 2))
	for n := range uint32(5) {
		for i, x := range a.Bytes(n) {
			if x != byte(n+1) {
				t.Fatalf("byte %d of slot %d is %d", i, n, x)
			}
		}
	}
	for _, p := range []Pool{Raw, Sealed} {
		if _, filling, full := a.Usage(p); filling+full != 0 {
			t.Fatal("filling slots changed the slot words")
		}
	}
	if !a.Recent().Has(chunkID(1, 2)) {
		t.Fatal("filling slots changed the table of recent chunks")
	}
}

// The life of a slot, and what each claim on it is worth at every step.
func TestClaims(t *testing.T) {
	a := newArena(t, small)
	s := mustAcquire(t, a, Sealed, 7)
	c := s.Claim(100)
	wantUsage(t, a, Sealed, 1, 1, 0)
	if !a.Valid(c) || !a.Live(c) {
		t.Fatal("a claim on a slot being filled is not live")
	}
	if !a.Promote(c) || !a.Promote(c) {
		t.Fatal("promoting twice must be harmless: producer and consumer both do")
	}
	wantUsage(t, a, Sealed, 1, 0, 1)
	if a.Reap(7) != 0 {
		t.Fatal("a slot handed over was reaped")
	}
	if !a.Release(c) {
		t.Fatal("not released")
	}
	if a.Live(c) || a.Promote(c) || a.Release(c) {
		t.Fatal("a released claim is still good for something")
	}
	next := mustAcquire(t, a, Sealed, 8)
	if next.Number != s.Number || next.Generation == s.Generation {
		t.Fatalf("%+v after %+v", next, s)
	}
	if a.Live(c) || a.Promote(c) || a.Release(c) {
		t.Fatal("a stale claim is good for something")
	}
	wantUsage(t, a, Sealed, 1, 1, 0)
	if !a.Live(next.Claim(0)) {
		t.Fatal("the next tenant suffered from a stale claim")
	}
	if a.Reap(7) != 0 || a.Reap(8) != 1 || a.Live(next.Claim(0)) {
		t.Fatal("reaping frees exactly what the dead was filling")
	}
}

func TestForeignClaimsAreRefused(t *testing.T) {
	a := newArena(t, small)
	raw, sealed := mustAcquire(t, a, Raw, 1), mustAcquire(t, a, Sealed, 1)
	for _, c := range []Claim{
		{},
		{Slot: raw.Number, Length: 1},
		{Slot: 5, Generation: 1, Length: 1},
		{Slot: math.MaxUint32, Generation: 1},
		{Slot: 1 << 31, Generation: 1},
		raw.Claim(small.RawSize + 1),
		{Slot: raw.Number, Generation: raw.Generation, Length: math.MaxUint32},
		sealed.Claim(small.SealedSize + 1),
	} {
		if a.Valid(c) || a.Live(c) || a.Promote(c) || a.Release(c) {
			t.Errorf("%+v was taken", c)
		}
	}
	for _, c := range []Claim{raw.Claim(small.RawSize), sealed.Claim(small.SealedSize), raw.Claim(0)} {
		if !a.Valid(c) || !a.Live(c) {
			t.Errorf("%+v was refused", c)
		}
	}
	for _, c := range []Claim{ // real memory, nobody's claim
		{Slot: raw.Number, Generation: raw.Generation + 1},
		{Slot: raw.Number, Generation: math.MaxUint32},
		{Slot: raw.Number + 1, Generation: 1},
	} {
		if !a.Valid(c) || a.Live(c) || a.Promote(c) || a.Release(c) {
			t.Errorf("%+v: made up, and taken", c)
		}
	}
	if _, ok := a.TryAcquire(NoSlot, 1); ok {
		t.Error("a slot of no pool")
	}
	if _, ok := a.TryAcquire(Pool(9), 1); ok {
		t.Error("a slot of a pool there is not")
	}
}

// After 2^32 tenants the generation comes round; 0 would claim nothing.
func TestGenerationsSkipZero(t *testing.T) {
	a := newArena(t, small)
	a.word(0).Store(pack(math.MaxUint32, 0, stateFree))
	s := mustAcquire(t, a, Raw, 1)
	if c := s.Claim(1); s.Number != 0 || c.IsZero() || !a.Live(c) || !a.Release(c) {
		t.Fatalf("%+v cannot be used", s)
	}
}

func TestAcquireWaits(t *testing.T) {
	a := newArena(t, small)
	var held []Slot
	for range small.SealedSlots {
		held = append(held, mustAcquire(t, a, Sealed, 1))
	}
	mustAcquire(t, a, Raw, 1) // the pools are apart
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Acquire(over, Sealed, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("a full arena gave %v", err)
	}
	got := make(chan Slot)
	go func() {
		s, err := a.Acquire(t.Context(), Sealed, 2)
		if err != nil {
			t.Error(err)
		}
		got <- s
	}()
	a.Release(held[1].Claim(0))
	if s := <-got; s.Number != held[1].Number {
		t.Fatalf("waited for %d, got %d", held[1].Number, s.Number)
	}
}

// Many goroutines take, fill, hand over and free slots, and each makes trouble
// with every claim it ever had. Nobody's bytes may change while it holds them.
func TestManyGoroutines(t *testing.T) {
	shape := Shape{RawSlots: 5, SealedSlots: 3, RawSize: pageBytes, SealedSize: pageBytes}
	a := newArena(t, shape)
	const workers, rounds = 16, 400
	var seen sync.Map // every claim ever given out
	var stop atomic.Bool
	handed := make(chan Claim, workers)
	var producers, consumers sync.WaitGroup
	for n := range uint32(workers) {
		producers.Go(func() {
			pool := Raw + Pool(n%2)
			var old []Claim
			for range rounds {
				s, err := a.Acquire(t.Context(), pool, n+1)
				if err != nil {
					t.Error(err)
					return
				}
				c := s.Claim(64)
				if _, twice := seen.LoadOrStore([2]uint32{c.Slot, c.Generation}, true); twice {
					t.Errorf("%+v was given out twice", c)
				}
				b := a.Bytes(s.Number)[:64]
				for i := range 8 {
					binary.LittleEndian.PutUint64(b[8*i:], uint64(c.Slot)<<32|uint64(c.Generation))
				}
				for _, c := range old {
					if a.Release(c) || a.Promote(c) || a.Live(c) {
						t.Errorf("the stale %+v was good for something", c)
					}
				}
				if s.Generation%7 == 0 { // given up
					a.Release(c)
				} else {
					handed <- c
				}
				// What is handed on may still be alive: only what is dead for certain is kept.
				if !a.Live(c) {
					old = append(old, c)
				}
			}
		})
		consumers.Go(func() {
			for c := range handed {
				if !a.Promote(c) || !a.Live(c) {
					t.Errorf("%+v is not live on arrival", c)
				}
				b := a.Bytes(c.Slot)[:c.Length]
				for i := range 8 {
					if got := binary.LittleEndian.Uint64(b[8*i:]); got != uint64(c.Slot)<<32|uint64(c.Generation) {
						t.Errorf("%+v holds the bytes of slot %d, generation %d", c, got>>32, uint32(got))
					}
				}
				if !a.Release(c) {
					t.Errorf("%+v could not be released by its only holder", c)
				}
			}
		})
	}
	var reaper sync.WaitGroup
	reaper.Go(func() { // an owner nobody has
		for !stop.Load() {
			if a.Reap(workers+1) != 0 {
				t.Error("reaping a stranger freed something")
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	producers.Wait()
	close(handed)
	consumers.Wait()
	stop.Store(true)
	reaper.Wait()
	wantUsage(t, a, Raw, shape.RawSlots, 0, 0)
	wantUsage(t, a, Sealed, shape.SealedSlots, 0, 0)
}

// A claim is released once, however many try at the same time.
func TestReleasedOnce(t *testing.T) {
	a := newArena(t, small)
	for range 300 {
		c := mustAcquire(t, a, Raw, 1).Claim(1)
		var released atomic.Int32
		var g sync.WaitGroup
		for n := range 8 {
			g.Go(func() {
				if n%2 == 0 {
					a.Promote(c)
				}
				if a.Release(c) {
					released.Add(1)
				}
			})
		}
		g.Wait()
		if released.Load() != 1 {
			t.Fatalf("%+v was released %d times", c, released.Load())
		}
	}
	wantUsage(t, a, Raw, small.RawSlots, 0, 0)
}

func TestOpenSeesTheSameMemory(t *testing.T) {
	a := newArena(t, small)
	b := reopen(t, a)
	s := mustAcquire(t, a, Sealed, 3)
	copy(a.Bytes(s.Number), "hello")
	c := s.Claim(5)
	if b.Shape() != small || !b.Live(c) || string(b.Bytes(c.Slot)[:c.Length]) != "hello" || !b.Release(c) || a.Live(c) {
		t.Fatal("two mappings, two opinions")
	}
}
