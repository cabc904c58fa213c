package keep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/prune"
	"github.com/millrace-backup/millrace/retention"
)

type forgetOptions struct {
	rule   retention.Rule
	zone   string
	guests []string
	dryRun bool
	force  bool
}

// Forget is the verb forget.
func Forget(app *session.App) *cobra.Command {
	a := verb{app}
	var o forgetOptions
	c := &cobra.Command{
		Use:   "forget [POINT...]",
		Short: "Forget points, by name or by a rule",
		Long: `Forget points: those that are named, or of each guest those that a rule does not keep.

Of each of the newest N hours, days, weeks (from Monday), months and years in which a
guest has a point, the newest point is kept, and so are the N newest of all. Pinned
points are kept, and so is the newest point of every guest. Points whose last check
found damage count only where there is no other. Jobs that failed have no point and
push none out.

A forgotten point is gone from listings at once and cannot be had back; what only it
needs is given back by prune. --dry-run says what would happen, why, and how much
space nothing else needs.`,
		RunE: func(c *cobra.Command, args []string) error { return a.forget(c.Context(), args, o) },
	}
	f := c.Flags()
	f.IntVar(&o.rule.Last, "keep-last", 0, "keep the newest points of each guest")
	f.IntVar(&o.rule.Hourly, "keep-hourly", 0, "keep the newest point of so many hours")
	f.IntVar(&o.rule.Daily, "keep-daily", 0, "... days")
	f.IntVar(&o.rule.Weekly, "keep-weekly", 0, "... weeks")
	f.IntVar(&o.rule.Monthly, "keep-monthly", 0, "... months")
	f.IntVar(&o.rule.Yearly, "keep-yearly", 0, "... years")
	f.StringVar(&o.zone, "zone", "UTC", "time zone whose hours and days are meant: a name like Europe/Berlin, or Local")
	f.StringArrayVar(&o.guests, "guest", nil, "only points of this guest; may be repeated")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be done")
	f.BoolVar(&o.force, "force", false, "forget what is named even if it is pinned or a guest's last point")
	return c
}

// judged is a point and what becomes of it.
type judged struct {
	*catalog.Point
	keep    bool
	reasons []string
}

func (o *forgetOptions) check(names []string) (err error) {
	switch {
	case len(names) > 0 && (!o.rule.Empty() || len(o.guests) > 0):
		return fault.Usage("name points, or give a rule with --keep-*: not both")
	case len(names) == 0 && o.rule.Empty():
		return fault.Usage("name points, or give a rule: --keep-last N, --keep-daily N, ...")
	case min(o.rule.Last, o.rule.Hourly, o.rule.Daily, o.rule.Weekly, o.rule.Monthly, o.rule.Yearly) < 0:
		return fault.Usage("--keep-*: not below zero")
	}
	if o.rule.Zone, err = time.LoadLocation(o.zone); err != nil {
		return fault.Usage("--zone %s: %w", o.zone, err)
	}
	return nil
}

func (a verb) forget(ctx context.Context, names []string, o forgetOptions) error {
	if err := o.check(names); err != nil {
		return err
	}
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	var all []judged
	facts := func(s *catalog.State) ([]events.Fact, error) {
		all = nil
		if len(names) > 0 {
			all, err = named(s, names, o.force)
		} else {
			all, err = byRule(s, o)
		}
		var out []events.Fact
		for _, p := range all {
			if !p.keep {
				out = append(out, events.PointForgotten{Point: p.Point.Point, Guest: p.Guest, Rule: o.text(names), Why: strings.Join(p.reasons, ", "), By: session.User()})
			}
		}
		return out, err
	}
	var where session.Recorded
	weight := &prune.Weight{}
	if o.dryRun {
		s, err := v.Now(ctx)
		if err == nil {
			_, err = facts(s)
		}
		if err == nil {
			weight, err = a.weigh(ctx, v, s, all)
		}
		if err != nil {
			return err
		}
	} else {
		// One segment: a crash leaves all of it forgotten, or nothing.
		if where, err = a.decide(ctx, v, facts); err != nil {
			return err
		}
		weight = nil
	}
	return a.printForgotten(all, weight, where)
}

// text is the rule as a fact has it.
func (o *forgetOptions) text(names []string) string {
	if len(names) > 0 {
		return "asked"
	}
	var out []string
	for _, k := range []struct {
		name string
		n    int
	}{{"last", o.rule.Last}, {"hourly", o.rule.Hourly}, {"daily", o.rule.Daily}, {"weekly", o.rule.Weekly}, {"monthly", o.rule.Monthly}, {"yearly", o.rule.Yearly}} {
		if k.n > 0 {
			out = append(out, fmt.Sprintf("%s %d", k.name, k.n))
		}
	}
	return "keep " + strings.Join(out, ", ") + " in " + o.rule.Zone.String()
}

// named judges the points that the user names.
func named(s *catalog.State, names []string, force bool) (out []judged, err error) {
	points, err := choose(s, names)
	if err != nil {
		return nil, err
	}
	going := map[id.Guest]int{}
	for _, p := range points {
		going[p.Guest]++
		if p.KeptSince != 0 && !force {
			return nil, &fault.Fault{Code: "kept", Op: "forget point", Object: id.Short(p.Point),
				Err: fmt.Errorf("it was pinned by %s: %s", p.Kept.By, p.Kept.Why)}
		}
		out = append(out, judged{p, false, []string{"named"}})
	}
	for _, p := range points {
		if g := s.Guests[p.Guest]; going[p.Guest] == len(g.Points) && !force {
			return nil, &fault.Fault{Code: "kept", Op: "forget point", Object: id.Short(p.Point),
				Err: fmt.Errorf("guest %s would have no point left", g.Name), Remedy: "say --force if the guest really is to have none"}
		}
	}
	return out, nil
}

// byRule judges all points of the guests that are meant.
func byRule(s *catalog.State, o forgetOptions) (out []judged, err error) {
	guests := s.GuestList()
	if len(o.guests) > 0 {
		guests = nil
		for _, name := range o.guests {
			g, err := s.Guest(name)
			if err != nil {
				return nil, fault.At("find guest", name, err)
			}
			guests = append(guests, g)
		}
	}
	for _, g := range guests {
		var points []retention.Point
		for _, p := range g.Points {
			points = append(points, retention.Point{Time: p.Time.Time(), Order: p.Position, Damaged: p.Damaged != 0, Pinned: p.KeptSince != 0})
		}
		reasons, err := o.rule.Judge(points)
		if err != nil {
			return nil, err
		}
		for n, p := range g.Points {
			j := judged{p, len(reasons[n]) > 0, reasons[n]}
			if !j.keep {
				j.reasons = []string{"no rule keeps it"}
			}
			out = append(out, j)
		}
	}
	return out, nil
}

// weigh finds what would be free.
func (a verb) weigh(ctx context.Context, v *session.Vault, s *catalog.State, all []judged) (*prune.Weight, error) {
	var going []*catalog.Point
	for _, p := range all {
		if !p.keep {
			going = append(going, p.Point)
		}
	}
	scratch, done, err := scratchFile(v)
	if err != nil {
		return nil, err
	}
	defer done()
	w, err := prune.Weigh(ctx, v.Vault, s, going, scratch)
	return &w, fault.At("weigh points of vault", v.Location, err)
}

// scratchFile is a place to sort in, which is there until done.
func scratchFile(v *session.Vault) (path string, done func(), err error) {
	folder := v.Cache("prune")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", nil, fault.At("make scratch folder", folder, err)
	}
	own, err := os.MkdirTemp(folder, "sort-*")
	if err != nil {
		return "", nil, fault.At("make scratch folder", folder, err)
	}
	return filepath.Join(own, "rows"), func() { _ = os.RemoveAll(own) }, nil
}

// forgottenJSON is one point as forget judged it.
type forgottenJSON struct {
	Type      string    `json:"type"`
	Point     id.Point  `json:"point"`
	Guest     id.Guest  `json:"guest"`
	GuestName string    `json:"guest_name"`
	Time      time.Time `json:"time"`
	Keep      bool      `json:"keep"`
	Reasons   []string  `json:"reasons"`
	Bytes     *int64    `json:"bytes,omitempty"` // with --dry-run: stored bytes that only this point needs
}

type forgotSummary struct {
	Type       string     `json:"type"`
	Forgotten  []id.Point `json:"forgotten"`
	Kept       int        `json:"kept"`
	DryRun     bool       `json:"dry_run"`
	Bytes      *int64     `json:"bytes,omitempty"` // with --dry-run: that no other point needs
	Position   uint64     `json:"position"`
	Checkpoint uint64     `json:"checkpoint"`
}

// printForgotten prints what became of the points; w is nil if it was done.
func (a verb) printForgotten(all []judged, w *prune.Weight, where session.Recorded) error {
	sum := forgotSummary{Type: "summary", Forgotten: []id.Point{}, DryRun: w != nil, Position: where.Position, Checkpoint: where.Checkpoint}
	if w != nil {
		sum.Bytes = &w.Total
	}
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	if !a.Settings.JSON && len(all) > 0 {
		fmt.Fprintln(table, "POINT\tGUEST\tTIME\t\tONLY ITS OWN\tWHY")
	}
	for _, p := range all {
		j := forgottenJSON{"status", p.Point.Point, p.Guest, p.GuestName, p.Time.Time().UTC(), p.keep, p.reasons, nil}
		own := ""
		if p.keep {
			sum.Kept++
		} else {
			sum.Forgotten = append(sum.Forgotten, p.Point.Point)
			if w != nil {
				alone := w.Alone[p.Point.Point]
				j.Bytes, own = &alone, session.Size(alone)
			}
		}
		if a.Settings.JSON {
			a.PrintJSON(j)
			continue
		}
		word := "keep"
		if !p.keep {
			word = "forget"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", id.Short(p.Point.Point), session.Plain(p.GuestName), p.Time.Time().Local().Format(time.DateTime),
			word, own, session.Plain(strings.Join(p.reasons, ", ")))
	}
	if a.Settings.JSON {
		a.PrintJSON(sum)
		return nil
	}
	err := table.Flush()
	switch {
	case w != nil:
		a.Note("dry run: %d points would be forgotten, %d kept; nothing else needs %s", len(sum.Forgotten), sum.Kept, session.Size(w.Total))
	case len(sum.Forgotten) == 0:
		a.Note("no point was forgotten")
	default:
		a.Note("%d points forgotten, %d kept; millrace prune gives back the space", len(sum.Forgotten), sum.Kept)
	}
	return errors.Join(err)
}
