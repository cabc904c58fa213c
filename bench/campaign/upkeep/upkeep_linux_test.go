package upkeep

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

func made(t *testing.T) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("makes a vault with the real program: seconds")
	}
	program, err := rig.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t.Context(), trial.Env{Dir: t.TempDir(), Program: program, Seed: 3, Now: time.Now, Log: t.Logf}, 4)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A share of the campaign.
func TestUpkeep(t *testing.T) {
	b := made(t)
	hits := 0
	for n := range 3 {
		out, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(3, uint64(n))))
		t.Logf("trial %d %v: %s", n, out.Kinds, out.Note)
		if err != nil {
			t.Errorf("trial %d %v: %s: %v", n, out.Kinds, out.Note, err)
		}
		hits += out.Checks
	}
	if hits == 0 {
		t.Error("no command was hit")
	}
}

// What the campaign would not find it cannot promise: each fault is planted behind the
// program's back and must be found.
func TestPlantedFaultsAreFound(t *testing.T) {
	b := made(t)
	rng := rand.New(rand.NewPCG(1, 1))
	plant := func(what, want string, fault func(*course) error) {
		c, err := b.begin(rng, filepath.Join(b.Dir, strings.ReplaceAll(what, " ", "-")))
		if err == nil {
			err = c.holds(t.Context())
		}
		if err == nil {
			err = c.end(t.Context())
		}
		if err == nil {
			err = fault(c)
		}
		if err != nil {
			t.Fatalf("%s: before it is looked at: %v", what, err)
		}
		if err = c.holds(t.Context()); err == nil {
			err = c.end(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	forge := func(c *course, f events.Fact) error {
		o, err := rig.Open(t.Context(), c.place.Vault, rig.Password, c.Now)
		if err == nil {
			_, err = o.Ledger.Append(t.Context(), id.Job{}, []events.Fact{f}, nil, nil)
		}
		return err
	}
	var of id.Point
	if err := of.UnmarshalText([]byte(b.made[7])); err != nil {
		t.Fatal(err)
	}
	plant("a live pack is collected", "packs/", func(c *course) error {
		packs, err := filepath.Glob(filepath.Join(c.place.Vault, "packs", "*", "*"))
		if err == nil {
			err = os.Remove(packs[0])
		}
		return err
	})
	plant("an acknowledged point is lost", "LOST", func(c *course) error { return forge(c, events.PointForgotten{Point: of}) })
	plant("a fact is applied twice", "twice", func(c *course) error {
		c.set(b.made[7], maybe)
		f := events.PointForgotten{Point: of}
		if err := forge(c, f); err != nil {
			return err
		}
		return forge(c, f)
	})
	plant("a forgetting is not done", "its forgetting was acknowledged", func(c *course) error { c.set(b.made[0], never); return nil })
	plant("another disk", "WRONG BYTES", func(c *course) error {
		p := c.points[b.made[2]]
		p.file = c.points[b.made[4]].file
		c.points[b.made[2]] = p
		return nil
	})
}
