package prove

import (
	"context"
	"iter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/audit"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
)

func (a verb) showCommand() *cobra.Command {
	var past session.Past
	c := &cobra.Command{
		Use:   "show [JOB]",
		Short: "Show how a job went: guests, disks, stages, restarts, facts",
		Long: `Show how a job went, from its facts in the ledger: what was selected and why, the
consistency obtained, how each disk was read, how every worker of every stage spent
its time and how it ended, which stage was the bottleneck, and what was stored.

JOB is the beginning of a job's id, or latest, the default.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			job := "latest"
			if len(args) == 1 {
				job = args[0]
			}
			return a.show(c.Context(), job, past)
		},
	}
	past.AddFlag(c)
	return c
}

func (a verb) show(ctx context.Context, name string, past session.Past) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	state, err := v.State(ctx, past)
	if err != nil {
		return err
	}
	job, err := state.Job(name)
	if err != nil {
		return fault.At("find job", name, err)
	}
	account, err := audit.Timeline(before(v.Ledger.Records(ctx, job.Position), state.Next), job.ID)
	if err != nil {
		return fault.At("read ledger of vault", v.Location, err)
	}
	if a.Settings.JSON {
		a.PrintJSON(account)
		return nil
	}
	return fault.At("print job", name, account.WriteText(a.Stdout, time.Local))
}

// before ends records at a position: the state that named the job ends there too.
func before(records iter.Seq2[events.Record, error], position uint64) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		for r, err := range records {
			if err == nil && r.Position >= position || !yield(r, err) {
				return
			}
		}
	}
}
