package prunes

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
)

// The share of the power cuts that a plain go test makes; -every 1 -seeds 20 makes all.
var (
	every = flag.Int("every", 37, "cut the power at each so many effects")
	seeds = flag.Int("seeds", 1, "ways of keeping some of what was not synced")
)

func rng(n int) *rand.Rand { return rand.New(rand.NewPCG(1, uint64(n))) }

// A short share of the campaign; nothing that somebody needs is deleted, and all
// that can happen has happened.
func TestSchedules(t *testing.T) {
	b, err := Open(t.TempDir(), nothing)
	if err != nil {
		t.Fatal(err)
	}
	trials := 15
	seen := map[string]int{}
	for n := range trials {
		out, err := b.Trial(t.Context(), n, rng(n))
		if err != nil {
			t.Fatalf("trial %d: %v", n, err)
		}
		for _, k := range out.Kinds {
			seen[k]++
		}
	}
	t.Log(seen)
	for _, k := range []string{"point", "layers", "packs", "sparse", "deleted", "waits", "overtaken", "stored again", "dead job", "fenced job", "pinned reader"} {
		if seen[k] == 0 {
			t.Errorf("%q never happened", k)
		}
	}
}

// Each planted fault is found.
func TestPlantedFaultsAreFound(t *testing.T) {
	for _, plant := range []Plant{NoGuard, NoWait, NoHold, ClockAlone} {
		t.Run(string(plant), func(t *testing.T) {
			b, err := Open(t.TempDir(), plant)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(slices.Collect(trials(150)), func(n int) bool {
				_, err := b.Trial(t.Context(), n, rng(n))
				if err != nil {
					t.Logf("trial %d: %v", n, err)
				}
				return err != nil
			}) {
				t.Error("not found in 150 trials")
			}
		})
	}
}

func trials(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}
