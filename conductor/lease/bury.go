package lease

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/id"
)

// Bury finds out which of these jobs live and returns them; those found dead are
// fenced, so that nothing has to wait for them. It takes about as long as a
// heartbeat, and Times.Silence more if one has died. Nobody's guests are claimed.
func (c *Claims) Bury(ctx context.Context, jobs []*catalog.Job) (alive []*catalog.Job, err error) {
	c.watches = map[id.Job]*Watch{}
	tick := time.NewTicker(c.Times.Or().Look)
	defer tick.Stop()
	for {
		if err := c.Catalog.CatchUp(c.Ledger.Records(ctx, c.Catalog.Next)); err != nil {
			return nil, fmt.Errorf("see which jobs are running: %w", err)
		}
		jobs = slices.DeleteFunc(slices.Clone(jobs), func(j *catalog.Job) bool {
			known := c.Catalog.Jobs[j.ID]
			return known == nil || !known.Open()
		})
		var open []*catalog.Job
		for _, j := range jobs {
			v, err := c.look(ctx, j)
			switch {
			case err != nil:
				return nil, err
			case v == Alive:
				alive = append(alive, j)
			case v == Dead:
				if err := c.fence(ctx, j, nil); err != nil {
					return nil, err
				}
			default:
				open = append(open, j)
			}
		}
		if jobs = open; len(jobs) == 0 {
			return alive, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
