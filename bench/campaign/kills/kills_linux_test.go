package kills

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
)

// A share of the campaign: every kind of blow.
func TestKills(t *testing.T) {
	if testing.Short() {
		t.Skip("some twenty jobs: half a minute")
	}
	program, err := rig.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t.Context(), trial.Env{Dir: t.TempDir(), Program: program, Seed: 11, Now: time.Now, Log: t.Logf}, 24, 48)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for n := range blows() {
		out, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(11, uint64(n))))
		t.Logf("trial %d %v: %s", n, out.Kinds, out.Note)
		if err != nil {
			t.Errorf("trial %d %v: %s: %v", n, out.Kinds, out.Note, err)
		}
		for _, k := range out.Kinds {
			kinds[k]++
		}
	}
	t.Log(kinds)
	if late := kinds["too late"]; late > 3 {
		t.Errorf("%d jobs were over before the blow", late)
	}
}
