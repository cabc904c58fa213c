package bench

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/bench/cutters"
	"github.com/millrace-backup/millrace/bench/growth"
	"github.com/millrace-backup/millrace/bench/workload"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
)

func cuttersCommand(a *session.App) *cobra.Command {
	var o common
	var guests int
	c := &cobra.Command{
		Use:   "cutters [IMAGE...]",
		Short: "Compare what the cutters find again in similar guests, and their speed",
		Long: `Compare what the cutters (aligned, fastcdc, fixed) find again in similar guests, and their
speed. Without images it makes guests with nearly the same files, laid out differently.`,
		RunE: func(c *cobra.Command, images []string) error {
			if guests < 1 || guests > 100 {
				return fault.Usage("--guests %d: give 1 to 100", guests)
			}
			return o.with(a, func(b *bench) error { return b.cutters(c.Context(), images, guests) })
		},
	}
	o.add(c, "512MiB", 3)
	c.Flags().IntVar(&guests, "guests", 4, "how many to make")
	return c
}

func (b *bench) cutters(ctx context.Context, images []string, guests int) error {
	for n := len(images); n < guests && len(images) == n; n++ {
		path := filepath.Join(b.folder, fmt.Sprintf("guest-%d.raw", n))
		b.Note("making guest %d of %d", n+1, guests)
		if _, err := workload.Similar(ctx, path, b.files, b.bytes, uint64(n)); err != nil {
			return err
		}
		images = append(images, path)
	}
	r, err := cutters.Measure(ctx, images, b.runs, b.say)
	if err != nil {
		return err
	}
	return b.result("cutters", r)
}

func growthCommand(a *session.App) *cobra.Command {
	var o common
	var hole string
	c := &cobra.Command{
		Use:   "growth",
		Short: "Measure how cost grows with the size of a disk",
		Long: `Measure how cost grows with the size of a disk: backup, second backup and restore of
images of an eighth to all of --size, and the second backup of a disk that is a hole,
which is what a job costs that has nothing to read.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := humanize.ParseBytes(hole)
			if err != nil || n < 1<<20 || n > 1<<44 {
				return fault.Usage("--hole %s: not a number of bytes from 1 MiB to 16 TiB", hole)
			}
			return o.with(a, func(b *bench) error { return b.growth(c.Context(), int64(n)) })
		},
	}
	o.add(c, "4GiB", 3)
	c.Flags().StringVar(&hole, "hole", "16TiB", "size of the disk that is a hole")
	return c
}

// leastGrowth is of which an eighth is still a file system with room for files.
const leastGrowth = 512 << 20

func (b *bench) growth(ctx context.Context, hole int64) error {
	if b.bytes < leastGrowth {
		return fault.Usage("--size %s: give 512 MiB or more, for an eighth of it to hold files", b.size)
	}
	r, err := growth.Measure(ctx, growth.Options{
		Dir: b.folder, Program: b.program, Files: b.files, Size: b.bytes, Holes: []int64{hole / 1024, hole}, Runs: b.runs, Say: b.say,
	})
	if err != nil {
		return err
	}
	if err := b.result("growth", r); err != nil || b.out == "" {
		return err
	}
	return r.Draw(b.out)
}
