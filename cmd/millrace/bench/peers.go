package bench

import (
	"context"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/bench/peers"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
)

func peersCommand(a *session.App) *cobra.Command {
	var o common
	var adapters []string
	var ratio float64
	c := &cobra.Command{
		Use:   "peers",
		Short: "Run other backup programs over the same image",
		Long: `Run other backup programs over the same image: a first backup, a second one, one that
reads all again, one after 1 % of all blocks were overwritten, and a restore, which must
be equal. restic and borg are measured if they are installed, others by --adapter: a
YAML file with their commands (bench/peers/adapters has an example).`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			more, err := readAdapters(adapters)
			if err != nil {
				return err
			}
			if ratio <= 0 || ratio > 1 {
				return fault.Usage("--changed %g: a share, as 0.01", ratio)
			}
			return o.with(a, func(b *bench) error { return b.peers(c.Context(), more, ratio) })
		},
	}
	o.add(c, "4GiB", 5)
	c.Flags().StringSliceVar(&adapters, "adapter", nil, "YAML file that describes another program")
	c.Flags().Float64Var(&ratio, "changed", 0.01, "share of blocks overwritten before the fourth phase")
	return c
}

func readAdapters(paths []string) (out []peers.Adapter, err error) {
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fault.At("read adapter", path, err)
		}
		var a peers.Adapter
		if err := yaml.UnmarshalWithOptions(text, &a, yaml.Strict()); err != nil {
			return nil, fault.Usage("--adapter %s: %v", path, err)
		}
		if err := a.Check(); err != nil {
			return nil, fault.Usage("--adapter %s: %v", path, err)
		}
		out = append(out, a)
	}
	return out, nil
}

func (b *bench) peers(ctx context.Context, more []peers.Adapter, ratio float64) error {
	image, err := b.disk(ctx)
	if err != nil {
		return err
	}
	r, err := peers.Measure(ctx, peers.Options{
		Image: image, Dir: b.folder, Program: b.program, More: more, Changed: ratio, Runs: b.runs, Say: b.say,
	})
	if err != nil {
		return err
	}
	return b.result("peers", r)
}
