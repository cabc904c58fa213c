package bench

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/bench/sweep"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
)

// allCommand is the standard set, on one image.
func allCommand(a *session.App) *cobra.Command {
	var o common
	c := &cobra.Command{
		Use:   "all --out FOLDER",
		Short: "Run the standard set and write results and pictures into a folder",
		Long: `Run the standard set on one image and write results and pictures into a folder:
primitives and peers with --runs, and sweep, cutters and growth as they are by default.
On two processors it takes about an hour.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.out == "" {
				return fault.Usage("give --out, a folder for the results")
			}
			return o.with(a, func(b *bench) error {
				if b.bytes < leastGrowth {
					return fault.Usage("--size %s: give 512 MiB or more", o.size)
				}
				return b.all(c.Context())
			})
		},
	}
	o.add(c, "4GiB", 5)
	return c
}

// all runs the standard set: each verb with its own defaults but for the image.
func (b *bench) all(ctx context.Context) error {
	image, err := b.disk(ctx)
	if err != nil {
		return err
	}
	b.image = image
	if err := b.primitives(ctx, runtime.NumCPU()); err != nil {
		return err
	}
	if err := b.peers(ctx, nil, 0.01); err != nil {
		return err
	}
	if b.image == filepath.Join(b.folder, b.kind+".raw") {
		if err := os.Remove(b.image); err != nil { // room for what follows
			return err
		}
		b.image = ""
	}
	whole := b.bytes
	b.bytes = max(whole/4, 128<<20) // a sweep has many runs
	if err := b.sweep(ctx, sweep.Options{CPUs: runtime.NumCPU(), Rounds: b.runs, Limit: 14 * time.Minute}); err != nil {
		return err
	}
	b.bytes = max(whole/8, 64<<20)
	if err := b.cutters(ctx, nil, 4); err != nil {
		return err
	}
	b.bytes, b.runs = whole, min(b.runs, 3)
	if err := b.growth(ctx, 1<<44); err != nil {
		return err
	}
	return b.table()
}

// table puts the Markdown of all parts into one file, to be pasted.
func (b *bench) table() error {
	out, err := os.Create(filepath.Join(b.out, "results.md"))
	if err != nil {
		return err
	}
	defer out.Close()
	for _, name := range []string{"primitives", "peers", "sweep", "cutters", "growth"} {
		part, err := os.ReadFile(filepath.Join(b.out, name+".md"))
		if err != nil {
			return err
		}
		if _, err := io.WriteString(out, "## bench "+name+"\n\n"+string(part)+"\n"); err != nil {
			return err
		}
	}
	return out.Close()
}
