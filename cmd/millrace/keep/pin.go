package keep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
)

// verb gives this package's functions the App.
type verb struct{ *session.App }

// Pin is the verb pin.
func Pin(app *session.App) *cobra.Command {
	a := verb{app}
	var why string
	c := &cobra.Command{
		Use:   "pin POINT...",
		Short: "Keep points whatever the retention rules say",
		Long: `Keep points: no retention rule forgets a pinned point, and forget refuses to by
name, until it is unpinned. Pinning twice changes the reason.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.pin(c.Context(), args, true, why) },
	}
	c.Flags().StringVar(&why, "why", "", "the reason, for whoever reads the ledger")
	return c
}

// Unpin is the verb unpin.
func Unpin(app *session.App) *cobra.Command {
	a := verb{app}
	var why string
	c := &cobra.Command{
		Use:   "unpin POINT...",
		Short: "Let retention rules decide over points again",
		Args:  cobra.MinimumNArgs(1),
		RunE:  func(c *cobra.Command, args []string) error { return a.pin(c.Context(), args, false, why) },
	}
	c.Flags().StringVar(&why, "why", "", "the reason, for whoever reads the ledger")
	return c
}

// pinnedJSON is what pin and unpin say.
type pinnedJSON struct {
	Type       string     `json:"type"`
	Points     []id.Point `json:"points"`
	Pinned     bool       `json:"pinned"`
	Position   uint64     `json:"position"`
	Checkpoint uint64     `json:"checkpoint"`
}

func (a verb) pin(ctx context.Context, names []string, pinned bool, why string) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	out := pinnedJSON{Type: "summary", Points: []id.Point{}, Pinned: pinned}
	where, err := a.decide(ctx, v, func(s *catalog.State) ([]events.Fact, error) {
		points, err := choose(s, names)
		if err != nil {
			return nil, err
		}
		var facts []events.Fact
		out.Points = out.Points[:0]
		for _, p := range points {
			out.Points = append(out.Points, p.Point)
			if pinned {
				facts = append(facts, events.PointPinned{Point: p.Point, Guest: p.Guest, Why: why, By: session.User()})
			} else if p.KeptSince != 0 {
				facts = append(facts, events.PointUnpinned{Point: p.Point, Guest: p.Guest, Why: why, By: session.User()})
			}
		}
		return facts, nil
	})
	if err != nil {
		return err
	}
	out.Position, out.Checkpoint = where.Position, where.Checkpoint
	if a.Settings.JSON {
		a.PrintJSON(out)
		return nil
	}
	word := "is pinned"
	if !pinned {
		word = "is not pinned any more"
	}
	for _, p := range out.Points {
		fmt.Fprintf(a.Stdout, "%s %s\n", id.Short(p), word)
	}
	return nil
}

// choose finds the points with these names, each once.
func choose(s *catalog.State, names []string) (out []*catalog.Point, err error) {
	seen := map[id.Point]bool{}
	for _, name := range names {
		p, err := s.Point(name, time.Local)
		if err != nil {
			return nil, fault.At("find point", name, err)
		}
		if !seen[p.Point] {
			seen[p.Point] = true
			out = append(out, p)
		}
	}
	return out, nil
}

// errOvertaken: somebody said something that a decision may depend on.
var errOvertaken = errors.New("the points of the vault have changed meanwhile")

// maxTries bounds how often a command decides anew.
const maxTries = 20

// decide appends what a function makes of the vault's state. If points are
// forgotten, pinned, checked or committed, or a set defined, in between, it is asked again.
func (a verb) decide(ctx context.Context, v *session.Vault, facts func(*catalog.State) ([]events.Fact, error)) (session.Recorded, error) {
	for n := 0; ; n++ {
		s, err := v.Now(ctx)
		if err != nil {
			return session.Recorded{}, err
		}
		all, err := facts(s)
		if err != nil || len(all) == 0 {
			return session.Recorded{}, err
		}
		g := &ledger.Guard{Next: s.Next, Check: func(r events.Record) error {
			switch r.Fact.(type) {
			case events.PointCommitted, events.PointForgotten, events.PointPinned, events.PointUnpinned, events.PointVerified, events.SetDefined:
				return errOvertaken
			}
			return nil
		}}
		where, err := a.Decide(ctx, v, id.Job{}, g, all...)
		if !errors.Is(err, errOvertaken) || n == maxTries {
			return where, err
		}
	}
}
