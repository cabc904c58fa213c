package arena

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millrace-backup/millrace/id"
)

func chunkID(hi, lo uint64) (c id.Chunk) {
	binary.LittleEndian.PutUint64(c[0:], hi)
	binary.LittleEndian.PutUint64(c[8:], lo)
	return c
}

func TestRecentRemembers(t *testing.T) {
	shape := small
	shape.RecentEntries = 1 << 12
	a := newArena(t, shape)
	r := a.Recent()
	rng := rand.New(rand.NewPCG(1, 2))
	known := map[[2]uint64]bool{}
	// Few first halves, so that most ids meet others which begin as they do.
	pick := func() [2]uint64 { return [2]uint64{rng.Uint64N(40) << 1, rng.Uint64N(60)} }
	for range 1500 {
		k := pick()
		known[k] = true
		r.Add(chunkID(k[0], k[1]))
	}
	for hi := range uint64(40) {
		for lo := range uint64(60) {
			k := [2]uint64{hi << 1, lo}
			if r.Has(chunkID(k[0], k[1])) != known[k] {
				t.Fatalf("%v: known %v, the table says otherwise", k, known[k])
			}
		}
	}
	again := reopen(t, a).Recent()
	for k := range known {
		if !again.Has(chunkID(k[0], k[1])) {
			t.Fatalf("another process does not know %v", k)
		}
	}
}

// A full table takes no more, answers rightly, and ends its searches.
func TestRecentFull(t *testing.T) {
	for _, entries := range []int{2, 4, 8, 64, 1024} {
		shape := small
		shape.RecentEntries = entries
		r := newArena(t, shape).Recent()
		took := 0
		for n := range uint64(3 * entries) {
			c := chunkID(n<<1, ^n)
			r.Add(c)
			if r.Has(c) {
				took++
			} else if took < entries/2 {
				t.Fatalf("a table of %d forgot number %d, and is not full", entries, n)
			}
		}
		if took >= entries || took < entries/2 {
			t.Errorf("a table of %d took %d", entries, took)
		}
		for n := range uint64(entries) {
			if r.Has(chunkID(n<<1, n)) {
				t.Fatalf("a table of %d knows a stranger", entries)
			}
		}
	}
	shape := small
	shape.RecentEntries = 0
	r := newArena(t, shape).Recent()
	r.Add(chunkID(1, 1))
	if r.Has(chunkID(1, 1)) {
		t.Fatal("no table remembers")
	}
}

// A restarted indexer adds again what its journal says, and then goes on. Neither
// wastes the table's room nor may fill it to the brim.
func TestRecentRestarts(t *testing.T) {
	shape := small
	shape.RecentEntries = 1024
	a := newArena(t, shape)
	for range 20 {
		r := reopen(t, a).Recent()
		for n := range uint64(400) {
			r.Add(chunkID(n<<1, n))
		}
	}
	r := reopen(t, a).Recent()
	for n := range uint64(800) {
		r.Add(chunkID(n<<1, n))
	}
	for n := range uint64(800) {
		if !r.Has(chunkID(n<<1, n)) {
			t.Fatalf("number %d of 800 was not taken by a table of 1024: adding again ate its room", n)
		}
	}
	for n := range uint64(20) { // each a new process that goes on without adding again
		r := reopen(t, a).Recent()
		for i := range uint64(100) {
			r.Add(chunkID(1<<40+(100*n+i)<<1, 1))
		}
	}
	free := 0
	for i := range uint64(1024) {
		if r.words[2*i] == 0 {
			free++
		}
	}
	if free < 1024/8 {
		t.Fatalf("%d entries are free: every unknown chunk costs a walk through the table", free)
	}
}

// While one writes, readers never see an id that was not added, and always one
// that was: halves of different ids never join.
func TestRecentReadersNeverSeeStrangers(t *testing.T) {
	shape := small
	shape.RecentEntries = 1 << 15
	a := newArena(t, shape)
	const ids = 1 << 13
	// Ids with an even second half are added; their neighbours, which differ in
	// one half only, never are.
	at := func(n uint64) (added id.Chunk, never []id.Chunk) {
		hi, lo := n<<1, (n+1)<<1
		return chunkID(hi, lo), []id.Chunk{chunkID(hi, lo|1), chunkID(hi+ids<<1, lo), chunkID(hi|1<<63, lo)}
	}
	var done atomic.Uint64
	var g sync.WaitGroup
	for seed := range uint64(4) {
		r := reopen(t, a).Recent()
		g.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 1))
			for {
				before := done.Load()
				n := rng.Uint64N(ids)
				if before > 0 && rng.Uint64N(2) == 0 {
					n = before - 1 - rng.Uint64N(min(before, 8)) // what has just come
				}
				added, never := at(n)
				if !r.Has(added) && n < before {
					t.Errorf("number %d was added and is not known", n)
				}
				// What is being added now must not be seen with half an entry.
				for i := range uint64(4) {
					if r.Has(chunkID((before+i)<<1, 0)) {
						t.Errorf("number %d is seen without its second half", before+i)
					}
				}
				for _, c := range never {
					if r.Has(c) {
						t.Errorf("%s is known and was never added", c)
					}
				}
				if before == ids {
					return
				}
			}
		})
	}
	w := a.Recent()
	for n := range uint64(ids) {
		added, _ := at(n)
		w.Add(added)
		done.Store(n + 1)
	}
	g.Wait()
}
