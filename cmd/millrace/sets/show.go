package sets

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/sets"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/guests"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/selection"
)

// setJSON is a set as scripts see it.
type setJSON struct {
	Set          string                 `json:"set"`
	Vault        string                 `json:"vault"` // where it backs up to
	Sources      []sourceJSON           `json:"sources"`
	Selectors    []string               `json:"selectors"`
	Excludes     []string               `json:"excludes"`
	Disks        []string               `json:"disks"`
	ExcludeDisks []string               `json:"exclude_disks"`
	Policy       map[string]string      `json:"policy"`
	Retention    map[string]string      `json:"retention"`
	Position     uint64                 `json:"position"` // of the definition
	DefinedAt    time.Time              `json:"defined_at"`
	DefinedBy    string                 `json:"defined_by"`
	LastJob      string                 `json:"last_job"` // that ran, empty if none did
	Guests       []guestJSON            `json:"guests"`   // that it protected then
	Problem      string                 `json:"problem,omitempty"`
	Now          *events.GuestsSelected `json:"now,omitempty"` // with --resolve
	Failed       []failedJSON           `json:"failed,omitempty"`
}

type sourceJSON struct {
	Source string   `json:"source"`
	Tags   []string `json:"tags"`
}

type guestJSON struct {
	Guest  id.Guest `json:"guest"`
	Name   string   `json:"name"`
	Source string   `json:"source"`
	By     string   `json:"by"` // the selector that took it
}

// failedJSON is what a backup that began now could not do.
type failedJSON struct {
	Code   string `json:"code"`
	Op     string `json:"op"`
	Object string `json:"object"`
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
}

func describe(v id.Vault, s *sets.Set) setJSON {
	none := func(l []string) []string { return append([]string{}, l...) }
	out := setJSON{Set: s.Fact.Set, Vault: v.String(), Sources: []sourceJSON{}, Selectors: none(s.Fact.Selectors), Excludes: none(s.Fact.Excludes), Disks: none(s.Fact.Disks),
		ExcludeDisks: none(s.Fact.ExcludeDisks), Policy: map[string]string{}, Retention: map[string]string{}, Position: s.Position, DefinedAt: s.DefinedAt.Time(), DefinedBy: s.Fact.By, Guests: []guestJSON{}}
	maps.Copy(out.Policy, s.Fact.Policy)
	maps.Copy(out.Retention, s.Fact.Retention)
	for _, source := range s.Fact.Sources {
		out.Sources = append(out.Sources, sourceJSON{source.Source, none(source.Tags)})
	}
	for _, g := range s.Guests {
		out.Guests = append(out.Guests, guestJSON{g.Guest, g.Name, g.Source, g.By})
	}
	if s.RanIn != 0 {
		out.LastJob = s.Ran.String()
	}
	if _, err := selection.Parse(s.Fact, s.Position); err != nil {
		out.Problem = err.Error()
	}
	return out
}

func (a verb) list() *cobra.Command {
	var past session.Past
	c := &cobra.Command{
		Use:   "list",
		Short: "List the backup sets of the vault",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := a.OpenVault(c.Context())
			if err != nil {
				return err
			}
			s, err := v.State(c.Context(), past)
			if err != nil {
				return err
			}
			all := []setJSON{}
			w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "SET\tSOURCES\tSELECTORS\tGUESTS IN LAST RUN\tKEEPS\tPOLICY")
			for _, name := range slices.Sorted(maps.Keys(s.Sets)) {
				set := s.Sets[name]
				all = append(all, describe(v.ID, set))
				ran := "not run yet"
				if set.RanIn != 0 {
					ran = fmt.Sprint(len(set.Guests))
				}
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", session.Plain(name), len(set.Fact.Sources), session.Plain(selectors(set)), ran, session.Plain(rule(set)), session.Plain(policy(set)))
			}
			switch {
			case a.Settings.JSON:
				a.PrintJSON(all)
			case len(all) == 0:
				a.Note("the vault has no backup sets")
			default:
				return w.Flush()
			}
			return nil
		},
	}
	past.AddFlag(c)
	return c
}

// selectors are what a set takes and leaves out, in a line.
func selectors(s *sets.Set) string {
	out := strings.Join(s.Fact.Selectors, " ")
	if out == "" {
		out = "all"
	}
	if len(s.Fact.Excludes) > 0 {
		out += " but " + strings.Join(s.Fact.Excludes, " ")
	}
	return out
}

func (a verb) show() *cobra.Command {
	var past session.Past
	var resolve bool
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a backup set, and what it protects",
		Long: `Show a backup set, and which guests its last run protected. With --resolve its sources
are looked at, and which guests a backup would protect now is shown too; nothing is
written.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			v, err := a.OpenVault(c.Context())
			if err != nil {
				return err
			}
			s, err := v.State(c.Context(), past)
			if err != nil {
				return err
			}
			set, err := s.Set(args[0])
			if err != nil {
				return fault.At("find set", args[0], err)
			}
			out := describe(v.ID, set)
			if resolve {
				if err := a.resolve(c.Context(), v.ID, s, set, &out); err != nil {
					return err
				}
			}
			if a.Settings.JSON {
				a.PrintJSON(out)
				return nil
			}
			return a.print(out, set)
		},
	}
	c.Flags().BoolVar(&resolve, "resolve", false, "look which guests a backup would protect now")
	past.AddFlag(c)
	return c
}

// resolve finds what a backup would do now.
func (a verb) resolve(ctx context.Context, v id.Vault, s *catalog.State, set *sets.Set, out *setJSON) error {
	d, err := selection.Parse(set.Fact, set.Position)
	if err != nil {
		return fault.At("read set", set.Fact.Set, err)
	}
	found, err := guests.Options{Vault: v}.Resolve(ctx, s, set, d)
	if err != nil {
		return err
	}
	out.Now = &found.Fact
	for _, f := range found.Failed {
		out.Failed = append(out.Failed, failedJSON{f.Code, f.Op, f.Object, f.Cause, f.Remedy})
	}
	return nil
}

func (a verb) print(o setJSON, set *sets.Set) error {
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	line := func(name string, values ...string) {
		for _, v := range values {
			if v != "" {
				fmt.Fprintf(w, "%s\t%s\n", name, session.Plain(v))
				name = ""
			}
		}
	}
	line("set", o.Set)
	line("vault", o.Vault)
	line("defined", fmt.Sprintf("%s by %s, position %d", o.DefinedAt.Format(time.RFC3339), o.DefinedBy, o.Position))
	line("problem", o.Problem)
	for n, s := range o.Sources {
		text := s.Source
		for _, t := range s.Tags {
			text += " tag:" + t
		}
		line(map[bool]string{true: "sources"}[n == 0], text)
	}
	line("takes", selectors(set))
	line("disks", o.Disks...)
	line("without", o.ExcludeDisks...)
	line("policy", policy(set))
	line("keeps", rule(set))
	ran := "has not run yet"
	if o.LastJob != "" {
		ran = fmt.Sprintf("job %s, position %d, %d guests:", o.LastJob, set.RanIn, len(o.Guests))
	}
	line("last run", ran)
	for _, g := range o.Guests {
		line("", fmt.Sprintf("%s (%s)", g.Name, g.Guest))
	}
	if o.Now != nil {
		line("now", selection.Tell(*o.Now)...)
	}
	for n, f := range o.Failed {
		line(map[bool]string{true: "fails"}[n == 0], fmt.Sprintf("%s %s: %s", f.Op, f.Object, f.Cause))
	}
	return w.Flush()
}
