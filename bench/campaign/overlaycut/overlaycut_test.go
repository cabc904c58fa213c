package overlaycut_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/bench/campaign/overlaycut"
)

var (
	trials = flag.Int("trials", 0, "in TestShort, do so many from the first (default: one of each kind)")
	sparse = flag.Int("sparse", 40, "in TestShort, cuts are so many times rarer than in the campaign")
)

// Trials of the campaign, of all kinds.
func TestShort(t *testing.T) {
	some := []int{2, 5, 6, 7}
	if *trials > 0 {
		some = nil
	}
	for n := range *trials {
		some = append(some, n)
	}
	for _, n := range some {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			out, err := overlaycut.Bench{Sparse: *sparse}.Trial(t.Context(), n, rand.New(rand.NewPCG(1, uint64(n))))
			t.Logf("%v: %s, %d states", out.Kinds, out.Note, out.Checks)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// A campaign that finds nothing is worth something only if it finds what is there: syncs
// that do nothing, of the bytes and of the journal.
func TestPlantedFault(t *testing.T) {
	for _, of := range []bool{false, true} {
		found := false
		for n := 0; n < 12 && !found; n++ {
			b := overlaycut.Bench{Lie: func(journal bool, sync int) bool { return journal == of && sync%4 == 3 }, Sparse: 2}
			_, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(1, uint64(n))))
			found = err != nil
		}
		if !found {
			t.Errorf("every fourth sync did nothing, of journals: %v, and nobody noticed", of)
		}
	}
}
