package runs

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/runs"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

func (a verb) finalize() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "finalize RUN --to FOLDER",
		Short: "Move a run's disks to their permanent place while its guest runs",
		Long: `Copy the disks of a run to raw files in FOLDER while its guest runs, read them back, and
switch the guest over, which pauses it for a moment. From then on it needs neither the vault
nor the overlay, which goes. Interrupted, or if anything fails, the guest goes on as it was,
and the same command goes on where this one was.

The guest stays in millrace run list until run stop; run resume starts it again from these files.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if to == "" {
				return fault.Usage("run finalize needs --to FOLDER")
			}
			return a.finalizeRun(c.Context(), args[0], to)
		},
	}
	c.Flags().StringVar(&to, "to", "", "folder for the disks; it is made if it is missing")
	return c
}

func (a verb) finalizeRun(ctx context.Context, name, to string) error {
	r, err := runs.Find(a.Settings.State, name)
	if err != nil {
		return fault.At("find run", name, err)
	}
	if to, err = filepath.Abs(to); err != nil {
		return err
	}
	v, err := a.vaultOf(ctx, r)
	if err != nil {
		return err
	}
	p := a.Progress("finalize " + session.Plain(r.Name))
	m, err := runs.MoveHome(ctx, r, to, p.At)
	p.Done()
	if err != nil {
		return fault.At("finalize run", id.Short(r.ID), err)
	}
	// The disks are at home for good; what follows only tells and clears away, and can be done
	// again by the same command.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := runs.End(late, r); err != nil {
		return fault.At("end serving of run", id.Short(r.ID), err)
	}
	fact := events.RunFinalized{Run: r.ID, Point: r.Point, Guest: r.Guest, To: to, Bytes: m.Bytes, DurationNS: m.Took.Nanoseconds()}
	for _, d := range r.Disks {
		fact.Disks = append(fact.Disks, d.Disk)
	}
	if _, err := a.Record(late, v, fact); err != nil {
		return err
	}
	if err := a.PinRun(late, v, r.ID, r.Point, true); err != nil {
		return fault.At("let go of point", id.Short(r.Point), err)
	}
	if err := runs.DropOverlays(r); err != nil {
		return fault.At("remove overlays of run", id.Short(r.ID), err)
	}
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type     string   `json:"type"`
			Run      id.Job   `json:"run"`
			Files    []string `json:"files"`
			Bytes    int64    `json:"bytes"`
			Paused   float64  `json:"paused_s"`
			Duration float64  `json:"duration_s"`
		}{"summary", r.ID, m.Files, m.Bytes, m.Paused.Seconds(), m.Took.Seconds()})
		return nil
	}
	for _, f := range m.Files {
		fmt.Fprintln(a.Stdout, session.Plain(f))
	}
	a.Note("%s is at home after %s; it stood for %s", session.Plain(r.Name), m.Took.Round(time.Millisecond), m.Paused.Round(time.Millisecond))
	return nil
}
