package keep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/bydomain"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/prune"
	"github.com/millrace-backup/millrace/retention"
)

type forgetOptions struct {
	flags  RuleFlags
	rule   retention.Rule // of the flags, or of the set
	set    string
	guests []string
	dryRun bool
	force  bool
	shred  string // a guest
	why    string
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

With --set NAME the rule is that of the backup set, and only the points that its jobs
made are judged: those of other sets, and those made without one, stay and do not count.

A forgotten point is gone from listings at once and cannot be had back; what only it
needs is given back by prune. --dry-run says what would happen, why, and how much
space nothing else needs.

--shred GUEST forgets all points of a guest that was backed up with --domain guest, and
destroys the keys that only its data is sealed with: from then on nobody can read it,
not even with a password and everything that is in the vault. What was copied from the
vault before, keys included, it cannot reach.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			if o.shred != "" {
				return a.shred(c.Context(), o)
			}
			return a.forget(c.Context(), args, o)
		},
	}
	f := c.Flags()
	o.flags.Add(f)
	f.StringVar(&o.set, "set", "", "of the points that this backup set made, those that its rule does not keep")
	f.StringArrayVar(&o.guests, "guest", nil, "only points of this guest; may be repeated")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be done")
	f.StringVar(&o.shred, "shred", "", "forget all of this guest and destroy its keys")
	f.StringVar(&o.why, "why", "", "with --shred: the reason, for whoever reads the ledger")
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
	if o.rule, err = o.flags.Rule(); err != nil {
		return err
	}
	switch {
	case o.shred != "" && (len(names) > 0 || !o.rule.Empty() || len(o.guests) > 0 || o.set != ""):
		return fault.Usage("--shred GUEST forgets all of a guest: give neither points nor a rule with it")
	case o.shred != "":
	case o.set != "" && (len(names) > 0 || !o.rule.Empty()):
		return fault.Usage("--set NAME forgets by the rule of the set: give neither points nor a rule with it")
	case o.set != "":
	case len(names) > 0 && (!o.rule.Empty() || len(o.guests) > 0):
		return fault.Usage("name points, or give a rule with --keep-*: not both")
	case len(names) == 0 && o.rule.Empty():
		return fault.Usage("name points, or give a rule: --keep-last N, --keep-daily N, ...")
	}
	return nil
}

func (a verb) forget(ctx context.Context, names []string, o forgetOptions) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	if err := bydomain.Sweep(ctx, a.App, v); err != nil && !o.dryRun {
		return err
	}
	var all []judged
	facts := func(s *catalog.State) ([]events.Fact, error) {
		all = nil
		switch {
		case len(names) > 0:
			all, err = named(s, names, o.force)
		case o.set != "":
			if o.rule, err = ruleOf(s, o.set); err != nil {
				return nil, err
			}
			fallthrough
		default:
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
	switch {
	case len(names) > 0:
		return "asked"
	case o.set != "":
		return "set " + o.set + ": " + o.rule.String()
	}
	return o.rule.String()
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
		own := slices.DeleteFunc(slices.Clone(g.Points), func(p *catalog.Point) bool { return o.set != "" && p.Set != o.set })
		for _, p := range own {
			points = append(points, retention.Point{Time: p.Time.Time(), Order: p.Position, Damaged: p.Damaged != 0, Pinned: p.KeptSince != 0})
		}
		reasons, err := o.rule.Judge(points)
		if err != nil {
			return nil, err
		}
		for n, p := range own {
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
