package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/bench"
	"github.com/millrace-backup/millrace/cmd/millrace/check"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/keep"
	"github.com/millrace-backup/millrace/cmd/millrace/keys"
	"github.com/millrace-backup/millrace/cmd/millrace/live"
	"github.com/millrace-backup/millrace/cmd/millrace/prove"
	"github.com/millrace-backup/millrace/cmd/millrace/read"
	"github.com/millrace-backup/millrace/cmd/millrace/runs"
	"github.com/millrace-backup/millrace/cmd/millrace/serve"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/cmd/millrace/sets"
)

// app gives the verbs of this package what all verbs have in common.
type app struct{ *session.App }

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{session.New(stdin, stdout, stderr)}
}

// verbs are the commands, in the order of the help text.
func (a *app) verbs() []*cobra.Command {
	return []*cobra.Command{
		a.initCommand(),
		a.backupCommand(),
		read.Points(a.App),
		read.Show(a.App),
		read.Restore(a.App),
		check.Verify(a.App, version().Version),
		runs.Command(a.App),
		sets.Command(a.App),
		keep.Forget(a.App),
		keep.Prune(a.App, version().Version),
		keep.Pin(a.App),
		keep.Unpin(a.App),
		read.Recover(a.App),
		prove.Audit(a.App),
		keys.Command(a.App),
		live.Top(a.App),
		live.Tune(a.App),
		a.demoCommand(),
		bench.Command(a.App),
		serve.Worker(a.App, version().Version),
		a.stageCommand(), a.guardCommand(),
		a.versionCommand(),
	}
}

const longHelp = `Millrace backs up virtual machines: whole disks into a vault that needs no server,
each byte stored once, sealed with your key, and proved before it counts.

A vault is a folder (/srv/vault or file:///srv/vault). A source is folder:PATH, a disk
image or a folder of them; a bare path means the same. A point is a unique prefix of
its id, GUEST@TIME, GUEST@latest or latest.

Settings come from flags, else from the environment (MILLRACE_VAULT,
MILLRACE_PASSWORD_FILE, MILLRACE_PASSWORD_COMMAND, MILLRACE_STATE, MILLRACE_NATS,
MILLRACE_CONFIG), else from the file given with --config.

Exit codes: 0 done, 1 failed, 2 usage, 3 done in part, 4 damage or tampering or rollback
found, 10 no such vault or another one in its place, 11 guest is being backed up by
another job, 12 wrong password, 130 interrupted.`

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "millrace",
		Short:         "Back up virtual machines",
		Long:          longHelp,
		Args:          cobra.ArbitraryArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fault.Usage("there is no command %q%s", args[0], suggestion(c, args[0]))
			}
			_ = c.Help()
			return fault.Usage("no command was given")
		},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			return a.Settings.Load(c, os.LookupEnv)
		},
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	a.Settings.AddFlags(root.PersistentFlags())
	root.AddCommand(a.verbs()...)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("completion")
	strict(root)
	return root
}

// strict makes every complaint of cobra about a command line a usage error, for
// c and all below it.
func strict(c *cobra.Command) {
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fault.Usage("%w", err) })
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return fault.Usage("%s: %w", c.CommandPath(), err)
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.RunE == nil && c.Run == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fault.Usage("%s has no command %q%s", c.CommandPath(), args[0], suggestion(c, args[0]))
			}
			return fault.Usage("%s needs one of its commands: see %s --help", c.CommandPath(), c.CommandPath())
		}
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

func suggestion(c *cobra.Command, word string) string {
	c.SuggestionsMinimumDistance = 2 // the zero value would suggest nothing
	near := c.SuggestionsFor(word)
	if len(near) == 0 {
		return ""
	}
	return fmt.Sprintf("; is it %s?", strings.Join(near, " or "))
}

// asksForJSON looks for --json where the command line could not be read far
// enough to know for sure.
func asksForJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}

// reportFault tells the user: as an object on stdout for scripts, else in words
// on stderr.
func (a *app) reportFault(f *fault.Fault, asJSON bool) {
	if asJSON {
		object := f.Object
		if named := fault.ObjectOf(f.Err); named != "" && f.Exit() == fault.ExitDamage {
			object = named // what is damaged, rather than where
		}
		a.PrintJSON(struct {
			Type   string `json:"type"`
			Code   string `json:"code"`
			Op     string `json:"op"`
			Object string `json:"object"`
			Cause  string `json:"cause"`
			Remedy string `json:"remedy"`
		}{"error", f.Code, f.Op, object, f.Cause(), f.Remedy})
		return
	}
	// Names out of guests and vaults may be in every part of it.
	fmt.Fprintf(a.Stderr, "millrace: %s\n  what to do: %s  [%s]\n", session.PlainLines(f.Error()), session.PlainLines(f.Remedy), f.Code)
}
