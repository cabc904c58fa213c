package vhdxcut_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/bench/campaign/vhdxcut"
)

// Trials of the campaign, of most kinds.
func TestShort(t *testing.T) {
	for _, n := range []int{0, 1, 3, 8, 25, 33} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			b := vhdxcut.Bench{Dir: t.TempDir()}
			out, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(1, uint64(n))))
			t.Logf("%v: %s, %d states", out.Kinds, out.Note, out.Checks)
			if err != nil {
				t.Error(err)
			}
			if out.Checks < 100 {
				t.Errorf("only %d states were looked at", out.Checks)
			}
		})
	}
}

// A campaign that finds nothing is worth something only if it finds what is there:
// every third sync does nothing, which no order of writes survives.
func TestPlantedFault(t *testing.T) {
	for turn := range 3 {
		found := false
		for n := range 4 {
			b := vhdxcut.Bench{Lie: func(sync int) bool { return sync%3 == turn }}
			_, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(1, uint64(n))))
			if found = err != nil; found {
				break
			}
		}
		if !found {
			t.Errorf("syncs %d, %d, ... did nothing, and nobody noticed", turn, turn+3)
		}
	}
}
