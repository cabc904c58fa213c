package queues

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/workload"
)

// said is in the log of a job whose queues were gone.
const said = "the NATS server has lost the"

// judge looks at the vault after the job, and after another.
func (t *course) judge(ctx context.Context, end rig.Ended) error {
	if t.hits > 0 && t.site != nil {
		log, err := os.ReadFile(filepath.Join(t.place.State, "jobs", end.Summary().Job, "log", "conductor.log"))
		if err != nil {
			return err
		}
		if bytes.Contains(log, []byte(said)) {
			t.kinds = append(t.kinds, "noticed")
		} else if t.renewed {
			t.note += "the job ended before it missed its queues; "
		}
	}
	if err := t.place.Same(ctx, "latest", t.place.Path("disk.raw")); err != nil {
		return err
	}
	was := end.Summary().New + end.Summary().Known + end.Summary().Zero + end.Summary().Same
	if was != end.Summary().Disk {
		return fmt.Errorf("%d bytes of %d are accounted for", was, end.Summary().Disk)
	}
	if err := t.whole(ctx); err != nil {
		return err
	}
	if _, err := workload.Scatter(t.place.Path("disk.raw"), 0.01, t.rng.Uint64()); err != nil {
		return err
	}
	if _, err := t.place.Must(ctx, "backup", t.place.Path("disk.raw")); err != nil {
		return fmt.Errorf("the next job: %w", err)
	}
	return t.place.Same(ctx, "latest", t.place.Path("disk.raw"))
}

// whole looks at all that the vault holds.
func (t *course) whole(ctx context.Context) error {
	for _, args := range [][]string{{"audit", "verify"}, {"verify", "--read-data"}} {
		if _, err := t.place.Must(ctx, args...); err != nil {
			return err
		}
	}
	o, err := rig.Open(ctx, t.place.Vault, rig.Password, t.Now)
	if err == nil {
		err = errors.Join(o.Once(ctx), o.Nonces(ctx))
	}
	if err != nil {
		return err
	}
	points := o.State.Listed()
	if len(points) != 2 {
		return fmt.Errorf("%d points are listed, 2 were made", len(points))
	}
	return t.place.Same(ctx, points[0].Point.String(), t.bench.place.Path("disk.raw"))
}
