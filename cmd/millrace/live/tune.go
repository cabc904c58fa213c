package live

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/control"
	"github.com/millrace-backup/millrace/conductor/parallel"
	"github.com/millrace-backup/millrace/flow"
)

// maxWhy bounds what goes into the ledger as the reason.
const maxWhy = 500

// Tune is the command tune.
func Tune(a *session.App) *cobra.Command {
	why := ""
	c := &cobra.Command{
		Use:   "tune [JOB] STAGE=N...",
		Short: "Change how many workers the stages of a running job have",
		Long: `Change how many workers the stages of a running job have. Where a stage gets more,
they are started at once; where it gets fewer, those that are too many finish what
they hold, hand it on and leave. Nothing is lost or done twice. If one change is not
possible none is made; should a worker not start, the error and the ledger say which
were.

Stages are reader, chunker, delta, seal and uploader, with 1 to 64 workers each;
snapshot and indexer have one. Workers on other machines are not counted. Each change
is a fact in the ledger, with who made it and why: millrace audit show tells of it.

JOB is the beginning of a job's id, or latest; it may be left out while one job runs
with this state folder.`,
		Example: "  millrace tune seal=4\n  millrace tune latest seal=2 chunker=1 --why 'others need the processors'",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			job, stages, err := orders(args)
			if err != nil {
				return err
			}
			if len(why) > maxWhy {
				return fault.Usage("--why: it has %d bytes, %d are kept", len(why), maxWhy)
			}
			return tune(c.Context(), a, job, control.Order{Stages: stages, Why: why})
		},
	}
	c.Flags().StringVar(&why, "why", "", "the reason, for the ledger")
	return c
}

// orders reads [JOB] STAGE=N...
func orders(args []string) (job string, stages map[string]int, err error) {
	stages = map[string]int{}
	for n, arg := range args {
		stage, text, ok := strings.Cut(arg, "=")
		if !ok && n == 0 {
			job = arg
			continue
		}
		count, err := strconv.Atoi(text)
		if !ok || err != nil {
			return "", nil, fault.Usage("tune %s: it is STAGE=N, with N a number of workers", arg)
		}
		// Whether a stage may be left to other machines only the job knows.
		if err := parallel.Check(stage, count, flow.Remotable()); err != nil {
			return "", nil, fault.Usage("tune: %w", err)
		}
		if _, twice := stages[stage]; twice {
			return "", nil, fault.Usage("tune: %s is there twice", stage)
		}
		stages[stage] = count
	}
	if len(stages) == 0 {
		return "", nil, fault.Usage("tune: give what to change, as seal=4")
	}
	return job, stages, nil
}

func tune(ctx context.Context, a *session.App, name string, o control.Order) error {
	job, err := find(ctx, a, name)
	if err != nil {
		return err
	}
	o.By = session.User()
	changes, err := job.Tune(ctx, o)
	if err != nil {
		return fault.At("tune job", job.Job.String(), fault.FromFlow(err))
	}
	if a.Settings.JSON {
		a.PrintJSON(control.Tuned{Type: "tuned", Job: job.Job, Changes: changes})
		return nil
	}
	for _, c := range changes {
		if c.From == c.To {
			fmt.Fprintf(a.Stdout, "%-9s %d workers, as before\n", c.Stage, c.To)
			continue
		}
		fmt.Fprintf(a.Stdout, "%-9s %d -> %d workers\n", c.Stage, c.From, c.To)
	}
	return nil
}
