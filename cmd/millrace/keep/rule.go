package keep

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/retention"
)

// RuleFlags are the flags of a command line that say a retention rule.
type RuleFlags struct {
	rule retention.Rule
	zone string
}

// Add adds the flags to a command's.
func (r *RuleFlags) Add(f *pflag.FlagSet) {
	f.IntVar(&r.rule.Last, "keep-last", 0, "keep the newest points of each guest")
	f.IntVar(&r.rule.Hourly, "keep-hourly", 0, "keep the newest point of so many hours")
	f.IntVar(&r.rule.Daily, "keep-daily", 0, "... days")
	f.IntVar(&r.rule.Weekly, "keep-weekly", 0, "... weeks")
	f.IntVar(&r.rule.Monthly, "keep-monthly", 0, "... months")
	f.IntVar(&r.rule.Yearly, "keep-yearly", 0, "... years")
	f.StringVar(&r.zone, "zone", "UTC", "time zone whose hours and days are meant: a name like Europe/Berlin, or Local")
}

// Rule is what the flags say; empty if they say nothing.
func (r *RuleFlags) Rule() (out retention.Rule, err error) {
	out = r.rule
	if min(out.Last, out.Hourly, out.Daily, out.Weekly, out.Monthly, out.Yearly) < 0 {
		return out, fault.Usage("--keep-*: not below zero")
	}
	if out.Zone, err = time.LoadLocation(r.zone); err != nil {
		return out, fault.Usage("--zone %s: %w", r.zone, err)
	}
	return out, nil
}

// ruleOf is the retention of a backup set.
func ruleOf(s *catalog.State, name string) (r retention.Rule, err error) {
	set, err := s.Set(name)
	if err != nil {
		return r, fault.At("find set", name, err)
	}
	if len(set.Fact.Retention) == 0 {
		return r, &fault.Fault{Code: "set-keeps-all", Op: "forget points of set", Object: name, Err: retention.ErrEmpty}
	}
	if r, err = retention.FromWords(set.Fact.Retention); err != nil {
		return r, &fault.Fault{Code: "set-unclear", Op: "read retention of set", Object: name, Err: err}
	}
	return r, nil
}
