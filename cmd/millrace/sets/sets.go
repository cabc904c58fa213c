package sets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/sets"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/guests"
	"github.com/millrace-backup/millrace/cmd/millrace/keep"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/retention"
	"github.com/millrace-backup/millrace/selection"
)

// verb gives this package's functions the App.
type verb struct{ *session.App }

// Command is set and its commands.
func Command(app *session.App) *cobra.Command {
	a := verb{app}
	c := &cobra.Command{
		Use:   "set",
		Short: "Backup sets: what is protected, and how",
		Long: `Backup sets: which guests are protected, and how. A set is kept in the vault it backs
up to; millrace backup --set NAME finds its guests anew each time.`,
	}
	c.AddCommand(a.add(), a.list(), a.show(), a.remove())
	return c
}

// addOptions are the flags of set add.
type addOptions struct {
	selectors, excludes, disks, excludeDisks, tagged []string

	policy  map[string]*string
	rule    keep.RuleFlags
	replace bool
}

func (a verb) add() *cobra.Command {
	o := addOptions{policy: map[string]*string{}}
	c := &cobra.Command{
		Use:   "add NAME SOURCE...",
		Short: "Define a backup set",
		Long: `Define a backup set, or with --replace define one anew.

SOURCE is folder:PATH or PATH. If the last element of the path has the wildcards * or ?,
every image and every folder with images that it stands for is a guest of its own, looked
for each time. --tagged TAG=SOURCE is a source whose guests are tagged.

A selector is name:GLOB, tag:TAG or id:UUID; a * stands for any text and a ? for one
character. A guest of the sources is in the set if a --select takes it, or there is
none, and no --exclude does. --disk and --exclude-disk take globs of the names that
disks have in their guest; what is left out is listed in each point as unprotected.

--scan, --freeze, --codec, --domain and --limit-* are what millrace backup --set does
unless it is told otherwise. --keep-* is what millrace forget --set keeps of the points that the
set has made.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := o.definition(c.Flags().Changed, args[0], args[1:])
			if err != nil {
				return err
			}
			return a.define(c.Context(), f, o.replace)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.selectors, "select", nil, "take these guests: name:GLOB, tag:TAG or id:UUID; may be repeated")
	f.StringArrayVar(&o.excludes, "exclude", nil, "but not these; may be repeated")
	f.StringArrayVar(&o.tagged, "tagged", nil, "TAG=SOURCE: a source whose guests have this tag; may be repeated")
	f.StringArrayVar(&o.disks, "disk", nil, "of every guest only these disks, a glob; may be repeated")
	f.StringArrayVar(&o.excludeDisks, "exclude-disk", nil, "without these disks, a glob; may be repeated")
	for _, p := range selection.Policies() {
		o.policy[p.Name] = f.String(p.Name, "", "as of millrace backup: "+p.Says())
	}
	o.rule.Add(f)
	f.BoolVar(&o.replace, "replace", false, "take the place of a set of this name")
	return c
}

// definition is the fact that the command line asks for. given says whether a flag was.
func (o *addOptions) definition(given func(string) bool, name string, sources []string) (f events.SetDefined, err error) {
	f = events.SetDefined{Set: name, Driver: "folder", Selectors: o.selectors, Excludes: o.excludes, Disks: o.disks, ExcludeDisks: o.excludeDisks,
		Policy: map[string]string{}, By: session.User()}
	add := func(source, tag string) error {
		path, err := guests.Path(source)
		if err != nil {
			return err
		}
		source = "folder:" + path
		at := slices.IndexFunc(f.Sources, func(s events.SetSource) bool { return s.Source == source })
		if at < 0 {
			at, f.Sources = len(f.Sources), append(f.Sources, events.SetSource{Source: source})
		}
		if s := &f.Sources[at]; tag != "" && !slices.Contains(s.Tags, tag) {
			s.Tags = append(s.Tags, tag)
		}
		return nil
	}
	for _, s := range sources {
		if err := add(s, ""); err != nil {
			return f, err
		}
	}
	for _, text := range o.tagged {
		tag, source, ok := strings.Cut(text, "=")
		if !ok || tag == "" {
			return f, fault.Usage("--tagged %q: it is TAG=SOURCE", text)
		}
		if err := add(source, tag); err != nil {
			return f, err
		}
	}
	for name, word := range o.policy {
		if given(name) {
			f.Policy[name] = *word
		}
	}
	rule, err := o.rule.Rule()
	if err != nil {
		return f, err
	}
	switch {
	case !rule.Empty():
		f.Retention = rule.Words()
	case given("zone"):
		return f, fault.Usage("--zone says whose days are meant by --keep-*: give a rule with it")
	}
	return f, o.check(f)
}

// check refuses what a command line must not say. What Parse refuses here is a mistake
// of the user, not a definition of another version.
func (o *addOptions) check(f events.SetDefined) error {
	d, err := selection.Parse(f, 0)
	if err != nil {
		return fault.Usage("set add: %s", strings.TrimSuffix(err.Error(), ": "+selection.ErrDefinition.Error()))
	}
	for _, s := range f.Sources {
		if err := guests.Globbed(s.Source); err != nil {
			return err
		}
	}
	for _, tag := range d.Tags() {
		if !slices.ContainsFunc(f.Sources, func(s events.SetSource) bool { return slices.Contains(s.Tags, tag) }) {
			return fault.Usage("selector tag:%s: no source of the set is tagged so; see --tagged", tag)
		}
	}
	return nil
}

// errOvertaken: somebody defined or removed the set meanwhile.
var errOvertaken = errors.New("the set has changed meanwhile")

// maxTries bounds how often a command decides anew.
const maxTries = 20

// decide appends a definition if what it stands on, the set as it was, is still so.
func (a verb) decide(ctx context.Context, v *session.Vault, f events.SetDefined, check func(*catalog.State) error) (session.Recorded, error) {
	for n := 0; ; n++ {
		s, err := v.Now(ctx)
		if err != nil {
			return session.Recorded{}, err
		}
		if err := check(s); err != nil {
			return session.Recorded{}, err
		}
		g := &ledger.Guard{Next: s.Next, Check: func(r events.Record) error {
			if other, ok := r.Fact.(events.SetDefined); ok && other.Set == f.Set {
				return errOvertaken
			}
			return nil
		}}
		where, err := a.Decide(ctx, v, id.Job{}, g, f)
		if !errors.Is(err, errOvertaken) || n == maxTries {
			return where, err
		}
	}
}

// definedJSON is what set add and set remove say.
type definedJSON struct {
	Type       string `json:"type"`
	Set        string `json:"set"`
	Replaced   bool   `json:"replaced"` // there was one of this name
	Removed    bool   `json:"removed"`
	Position   uint64 `json:"position"`
	Checkpoint uint64 `json:"checkpoint"`
}

func (a verb) define(ctx context.Context, f events.SetDefined, replace bool) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	out := definedJSON{Type: "summary", Set: f.Set}
	where, err := a.decide(ctx, v, f, func(s *catalog.State) error {
		before := s.Sets[f.Set]
		out.Replaced = before != nil
		if before != nil && !replace {
			return &fault.Fault{Code: "set-exists", Op: "define set", Object: f.Set, Err: fmt.Errorf("there is one, defined by %s at %s",
				session.Plain(before.Fact.By), before.DefinedAt.Time().Format(time.RFC3339))}
		}
		return nil
	})
	if err != nil {
		return err
	}
	word := "is defined"
	if out.Replaced {
		word = "is defined anew"
	}
	return a.done(v, out, where, word)
}

func (a verb) remove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a backup set; its points stay",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			v, err := a.OpenVault(c.Context())
			if err != nil {
				return err
			}
			where, err := a.decide(c.Context(), v, events.SetDefined{Set: args[0], Removed: true, By: session.User()}, func(s *catalog.State) error {
				_, err := s.Set(args[0])
				return fault.At("find set", args[0], err)
			})
			if err != nil {
				return err
			}
			return a.done(v, definedJSON{Type: "summary", Set: args[0], Removed: true}, where, "is removed; the points that it made stay")
		},
	}
}

func (a verb) done(v *session.Vault, out definedJSON, where session.Recorded, word string) error {
	out.Position, out.Checkpoint = where.Position, where.Checkpoint
	if a.Settings.JSON {
		a.PrintJSON(out)
	} else {
		fmt.Fprintf(a.Stdout, "set %s %s\n", session.Plain(out.Set), word)
	}
	return v.Unwitnessed()
}

// rule is the retention of a set in words; empty if it has none.
func rule(s *sets.Set) string {
	if len(s.Fact.Retention) == 0 {
		return ""
	}
	r, err := retention.FromWords(s.Fact.Retention)
	if err != nil {
		return err.Error()
	}
	return r.String()
}

// policy is the policy of a set in words.
func policy(s *sets.Set) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.Fact.Policy)) {
		out = append(out, name+"="+s.Fact.Policy[name])
	}
	return strings.Join(out, " ")
}
