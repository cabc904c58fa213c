package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor"
	"github.com/millrace-backup/millrace/domain"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/selection"
)

// oneWay refuses a command line that says in two ways what is to be backed up.
func (o *backupOptions) oneWay(sources []string) error {
	switch {
	case o.set == "" && len(sources) == 0 && !o.given("set"):
		return fault.Usage("backup: name sources, or a backup set with --set")
	case o.set == "" && o.given("set"):
		return fault.Usage("--set: give the name of a backup set")
	case o.set != "" && len(sources) > 0:
		return fault.Usage("name sources, or a backup set with --set: not both")
	case o.set != "" && len(o.Disks)+len(o.Exclude) > 0 || o.set != "" && o.GuestID != "":
		return fault.Usage("--disk, --exclude-disk and --guest-id are for sources; of a set they are part of its definition: millrace set add --replace")
	}
	return nil
}

// fromSet finds the guests that the set means now and enters them, with what the set
// says of how they are backed up where no flag says otherwise. It returns the sources.
func (a *app) fromSet(ctx context.Context, v *session.Vault, o *backupOptions, opts *conductor.Options) (sources []string, err error) {
	s, err := v.Now(ctx)
	if err != nil {
		return nil, err
	}
	set, err := s.Set(o.set)
	if err != nil {
		return nil, fault.At("find set", o.set, err)
	}
	d, err := selection.Parse(set.Fact, set.Position)
	if err != nil {
		return nil, fault.At("read set", o.set, err)
	}
	found, err := o.Resolve(ctx, s, set, d)
	if err != nil {
		return nil, err
	}
	found.Fact.Outdone = map[string]string{}
	for name, to := range map[string]*string{"scan": &opts.Scan, "freeze": &opts.Freeze, "codec": &opts.Codec, "domain": &o.domain,
		"limit-read": o.limits["limit-read"], "limit-upload": o.limits["limit-upload"]} {
		switch word, says := d.Policy[name]; {
		case says && !o.given(name):
			*to = word
		case says && *to != word:
			found.Fact.Outdone[name] = word
		}
	}
	if o.domain == domain.Shared && !o.given("domain") {
		found.Guests = slices.DeleteFunc(found.Guests, func(g hypervisor.Guest) bool {
			own := s.DomainOf(g.ID) != nil
			if own {
				found.Fail(g.ID, g.Name, fault.At("back up in the vault's domain", g.Name, domain.ErrOwn))
			}
			return own
		})
	}
	if len(found.Guests)+len(found.Failed) == 0 {
		// All there is is left out. A job that protects nothing is not done.
		found.Fail(id.Guest{}, "set "+o.set, &fault.Fault{Code: "selects-nothing", Op: "select guests of set", Object: o.set,
			Err: fmt.Errorf("its sources list %d guests, and it leaves out all of them", len(found.Fact.Guests))})
	}
	for _, g := range found.Fact.Guests {
		if g.New {
			a.Note("millrace: %s is new in set %s", session.Plain(g.Name), o.set)
		}
	}
	for _, g := range found.Fact.Gone {
		a.Note("millrace: %s was in the last run of set %s, and is nowhere in its sources now; its points stay", session.Plain(g.Name), o.set)
	}
	opts.Guests, opts.Failed, opts.Set, opts.Chosen = found.Guests, found.Failed, o.set, &found.Fact
	for _, source := range set.Fact.Sources {
		sources = append(sources, source.Source)
	}
	return sources, o.limit(opts)
}
