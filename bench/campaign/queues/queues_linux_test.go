package queues

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
)

func TestQueues(t *testing.T) {
	if testing.Short() {
		t.Skip("jobs with a NATS server of their own")
	}
	program, err := rig.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t.Context(), trial.Env{Dir: t.TempDir(), Program: program, Seed: 7, Now: time.Now, Log: t.Logf}, 48)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a share of the campaign", func(t *testing.T) { aShare(t, b) })
	t.Run("the judge can fail", func(t *testing.T) { judgeCanFail(t, b) })
}

func aShare(t *testing.T, b *bench) {
	hits := 0
	for _, n := range []int{0, 2, 5} {
		out, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(7, uint64(n))))
		t.Logf("trial %d %v: %s", n, out.Kinds, out.Note)
		if err != nil {
			t.Errorf("trial %d: %v", n, err)
		}
		hits += out.Checks
	}
	if hits == 0 {
		t.Error("no blow hit a running job")
	}
}

// A disk that is not as it was backed up, and a point too many: the judge says so.
func judgeCanFail(t *testing.T, b *bench) {
	for want, spoil := range map[string]func(*course) error{
		"WRONG BYTES": func(c *course) error {
			f, err := os.OpenFile(c.place.Path("disk.raw"), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("another"), 5<<20)
			return err
		},
		"3 points are listed": func(c *course) error {
			_, err := c.place.Must(t.Context(), "backup", c.place.Path("disk.raw"))
			return err
		},
	} {
		c := &course{bench: b, rng: rand.New(rand.NewPCG(1, 1))}
		if err := c.prepare(t.Context(), t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if c.site != nil {
			c.site.stop()
		}
		end, err := c.place.Must(t.Context(), "backup", c.place.Path("disk.raw"))
		if err == nil {
			err = spoil(c)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := c.judge(t.Context(), end); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the judge says %v, want %q", err, want)
		}
	}
}
