package bench

import (
	"context"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/bench/sweep"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
)

func sweepCommand(a *session.App) *cobra.Command {
	var o common
	var cpus, points int
	var limit time.Duration
	c := &cobra.Command{
		Use:   "sweep",
		Short: "Run the backup with many settings and say which is fastest",
		Long: `Run the backup with many settings and say which is fastest: every pair of a number of
chunkers and of seals, and one change at a time of readers, deltas, uploaders, codec,
transport and parcel size. The best is run again beside the defaults. With --out it
draws scaling.svg and cpu.svg: how speed grows with workers, and where processor time goes.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if cpus < 1 || cpus > 4096 {
				return fault.Usage("--cpus %d is not possible", cpus)
			}
			if limit < time.Second {
				return fault.Usage("--limit %s: give a time, as 14m", limit)
			}
			all := sweep.Points(cpus)
			if points < 0 || points > len(all) {
				return fault.Usage("--points %d: there are %d", points, len(all))
			}
			if points > 0 {
				all = all[:points]
			}
			return o.with(a, func(b *bench) error {
				return b.sweep(c.Context(), sweep.Options{CPUs: cpus, Rounds: o.runs, Limit: limit, Points: all})
			})
		},
	}
	o.add(c, "1GiB", 5)
	c.Flags().IntVar(&cpus, "cpus", runtime.NumCPU(), "processors that defaults and points are derived from")
	c.Flags().DurationVar(&limit, "limit", 14*time.Minute, "no round is begun that would end after it")
	c.Flags().IntVar(&points, "points", 0, "only so many of the points (default: all)")
	return c
}

func (b *bench) sweep(ctx context.Context, o sweep.Options) error {
	image, err := b.disk(ctx)
	if err != nil {
		return err
	}
	o.Image, o.Dir, o.Program, o.Say = image, b.folder, b.program, b.say
	r, err := sweep.Measure(ctx, o)
	if err != nil {
		return err
	}
	if err := b.result("sweep", r); err != nil || b.out == "" {
		return err
	}
	return r.Draw(b.out)
}
