// Command campaign tries to make Millrace lose, mix up or invent bytes, thousands
// of times, and writes down what came of it.
//
// Each campaign is a package of its own beside this file; the table in campaigns
// names them. `make campaign` runs all of them in full, for hours on a small
// machine; the tests of each package run a short share of the same trials.
//
// A run can be stopped at any time and goes on with the same command: the folder
// given with -work keeps a journal for each campaign, seed and commit. When the
// last trial is done one line is added to docs/campaigns/NAME.md: date, commit,
// machine, seed, trials, failures. A failing trial prints how to repeat it alone.
//
// Exit status 1: a trial failed or a campaign could not be run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/crash"
	"github.com/millrace-backup/millrace/bench/campaign/flips"
	"github.com/millrace-backup/millrace/bench/campaign/keykills"
	"github.com/millrace-backup/millrace/bench/campaign/kills"
	"github.com/millrace-backup/millrace/bench/campaign/overlaycut"
	"github.com/millrace-backup/millrace/bench/campaign/prunes"
	"github.com/millrace-backup/millrace/bench/campaign/queues"
	"github.com/millrace-backup/millrace/bench/campaign/resume"
	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/rundirect"
	"github.com/millrace-backup/millrace/bench/campaign/running"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/campaign/upkeep"
	"github.com/millrace-backup/millrace/bench/campaign/vhdxcut"
)

// campaigns are all there are, in the order in which "all" runs them.
func campaigns() []trial.Campaign {
	return []trial.Campaign{crash.Campaign(), flips.Campaign(), kills.Campaign(), resume.Campaign(), vhdxcut.Campaign(), prunes.Campaign(),
		upkeep.Campaign(), keykills.Campaign(), queues.Campaign(), running.Campaign(), overlaycut.Campaign(), rundirect.Campaign()}
}

func main() {
	var (
		which = flag.String("run", "all", "campaigns to run, separated by commas: "+names())
		out   = flag.String("out", filepath.Join("docs", "campaigns"), "folder of the pages of results; empty: write none")
		o     trial.Options
	)
	flag.Uint64Var(&o.Seed, "seed", 1, "decides all that is random")
	flag.IntVar(&o.Count, "count", 0, "trials of each campaign (default: its own number)")
	flag.IntVar(&o.Only, "only", -1, "repeat this trial alone")
	flag.StringVar(&o.Work, "work", ".campaign", "folder for journals and for what trials make")
	flag.StringVar(&o.Program, "millrace", "", "the program to try (default: built from here)")
	flag.DurationVar(&o.For, "for", 0, "stop each campaign after so much time, to be continued later")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, strings.Split(*which, ","), *out, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "campaign:", err)
		os.Exit(1)
	}
}

func names() string {
	var all []string
	for _, c := range campaigns() {
		all = append(all, c.Name)
	}
	return strings.Join(append(all, "all"), ", ")
}

func run(ctx context.Context, which []string, out string, o trial.Options) error {
	var chosen []trial.Campaign
	for _, name := range which {
		found := slices.IndexFunc(campaigns(), func(c trial.Campaign) bool { return c.Name == name })
		switch {
		case name == "all":
			chosen = append(chosen, campaigns()...)
		case found < 0:
			return fmt.Errorf("there is no campaign %q; there are %s", name, names())
		default:
			chosen = append(chosen, campaigns()[found])
		}
	}
	var err error
	if o.Work, err = filepath.Abs(o.Work); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Work, 0o755); err != nil {
		return err
	}
	if o.Program == "" {
		program, err := rig.Build(ctx, o.Work)
		if err != nil {
			return err
		}
		o.Program = program
	}
	o.Commit, o.Machine, o.Now, o.Log = commit(ctx), machine(), time.Now, os.Stderr
	var wrong []error
	for _, c := range chosen {
		r, err := trial.Run(ctx, c, o)
		if ctx.Err() != nil {
			return errors.New("interrupted; the same command goes on")
		}
		if errors.Is(err, trial.ErrTime) {
			continue
		}
		if err == nil && out != "" && o.Only < 0 {
			err = r.Append(out)
		}
		fmt.Print(r.Line())
		if r.Failed > 0 {
			err = errors.Join(err, fmt.Errorf("%s: %d of %d trials failed", c.Name, r.Failed, len(r.Results)))
		}
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

// commit names what is tried. A tree with changes is marked: its journal is not
// that of the commit.
func commit(ctx context.Context) string {
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(head))
	// Pages of results change while campaigns run and are not what is tried.
	if dirty, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", "*.go", "go.mod").Output(); err == nil && len(dirty) > 0 {
		name += "+"
	}
	return name
}

// machine describes where this runs, without naming it.
func machine() string {
	memory := ""
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf(", %d GiB", (kib+512<<10)>>20)
		}
	}
	return fmt.Sprintf("%s/%s, %d cores%s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), memory)
}
