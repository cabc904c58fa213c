package bench

import (
	"context"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/bench/primitives"
	"github.com/millrace-backup/millrace/bench/relay"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/flow"
)

func primitivesCommand(a *session.App) *cobra.Command {
	var o common
	var threads int
	c := &cobra.Command{
		Use:   "primitives",
		Short: "Measure what a backup cannot do without, one by one, and the backup beside it",
		Long: `Measure what a backup cannot do without, one by one, in one thread: read, hash, cut,
compress with every codec, seal, verify, write. Beside it: the same work in a bare loop
in one process, the real backup (default codec, lz4, inline), and a job whose stages only
forward as many messages. It says how the backup's processor time and speed compare.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.with(a, func(b *bench) error { return b.primitives(c.Context(), threads) })
		},
	}
	o.add(c, "4GiB", 5)
	c.Flags().IntVar(&threads, "threads", runtime.NumCPU(), "goroutines of the bare loop")
	return c
}

func (b *bench) primitives(ctx context.Context, threads int) error {
	if threads < 1 || threads > 1024 {
		return fault.Usage("--threads %d: give 1 to 1024", threads)
	}
	image, err := b.disk(ctx)
	if err != nil {
		return err
	}
	r, err := primitives.Measure(ctx, primitives.Options{
		Image: image, Dir: b.folder, Program: b.program, Relay: []string{b.program, "bench", "relay"},
		Runs: b.runs, Threads: threads, Say: b.say,
	})
	if err != nil {
		return err
	}
	return b.result("primitives", r)
}

// relayCommand is a job that only forwards. It is a process of its own, so that what
// it takes can be told from what measures it.
func relayCommand() *cobra.Command {
	o := relay.Options{CPUs: runtime.NumCPU()}
	c := &cobra.Command{
		Use: "relay", Short: "Run a job that only forwards messages", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return fault.At("find", "this program", err)
			}
			if o.Transport != flow.Claim && o.Transport != flow.Inline {
				return fault.Usage("--transport %s: it is claim or inline", o.Transport)
			}
			o.Command = []string{exe, "bench", "relay-worker"}
			return fault.At("forward", "parcels", relay.Conduct(c.Context(), o))
		},
	}
	c.Flags().IntVar(&o.Parcels, "parcels", 256, "how many")
	c.Flags().StringVar(&o.Dir, "dir", "", "where to make the work folder")
	c.Flags().StringVar(&o.Transport, "transport", flow.Claim, "claim or inline")
	return c
}

func relayWorkerCommand(a *session.App) *cobra.Command {
	return &cobra.Command{
		Use: "relay-worker STAGE", Short: "Run a worker of bench relay", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, _ []string) error {
			// As for a stage, a signal meant for the group does not end it: its conductor does.
			return fault.At("forward", "parcels", relay.Worker(context.WithoutCancel(c.Context()), a.Stdin))
		},
	}
}
