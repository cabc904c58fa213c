package keykills

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
)

// A share of the campaign.
func TestKeyKills(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program and runs some fifty commands")
	}
	program, err := rig.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Env: trial.Env{Dir: t.TempDir(), Program: program, Seed: 7, Now: time.Now, Log: t.Logf}, took: map[string]time.Duration{}}
	for _, name := range names() {
		b.took[name] = 250 * time.Millisecond // about; the campaign measures it
	}
	for n := 1; n < 4; n++ { // add --recovery, remove, and both of two rotations
		out, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(7, uint64(n))))
		t.Logf("trial %d %v: %s", n, out.Kinds, out.Note)
		if err != nil {
			t.Errorf("trial %d %v: %s: %v", n, out.Kinds, out.Note, err)
		}
	}
}
