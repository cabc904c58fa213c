// Package serve holds the verb millrace worker, which runs stages of other machines'
// jobs here, and the flags by which it and backup reach a NATS server of the
// operator's.
//
// [Worker] makes the verb. [NATS] is the flags: Add them to a verb, then Dial reads the
// files that they name. Credentials come from files and never from arguments, which
// every user of a machine may read.
package serve

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/logfile"
	"github.com/millrace-backup/millrace/conductor/outpost"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/courier"
)

// NATS are flags that say how a NATS server of the operator's is reached.
type NATS struct{ credentials, ca string }

// Add makes flags of them.
func (n *NATS) Add(c *cobra.Command) {
	c.Flags().StringVar(&n.credentials, "nats-credentials", "", "file for --nats: a NATS credentials file, or USER:PASSWORD on its first line")
	c.Flags().StringVar(&n.ca, "nats-ca", "", "file for --nats with the certificates that vouch for the server (default: the system's)")
}

// Dial reads the credentials: they are never arguments, which everyone may read.
func (n *NATS) Dial(url string) (courier.Dial, error) {
	d := courier.Dial{URL: url}
	if n.ca != "" {
		path, err := filepath.Abs(n.ca)
		if err != nil {
			return d, fault.At("find", n.ca, err)
		}
		d.CA = path
	}
	if n.credentials == "" {
		return d, nil
	}
	b, err := os.ReadFile(n.credentials)
	if err != nil {
		return d, fault.At("read NATS credentials", n.credentials, err)
	}
	if strings.Contains(string(b), "-----BEGIN NATS USER JWT-----") {
		d.Credentials = b
		return d, nil
	}
	line, _, _ := strings.Cut(string(b), "\n")
	user, password, ok := strings.Cut(strings.TrimRight(line, "\r"), ":")
	if !ok || user == "" {
		return d, fault.Usage("--nats-credentials %s: it is neither a NATS credentials file nor USER:PASSWORD", n.credentials)
	}
	d.User, d.Password = user, courier.Secret(password)
	return d, nil
}

type workerOptions struct {
	nats     NATS
	stages   []string
	parallel map[string]string
}

// Worker is the verb. version is this program's.
func Worker(a *session.App, version string) *cobra.Command {
	var o workerOptions
	c := &cobra.Command{
		Use:   "worker --nats URL --stages STAGE,...",
		Short: "Run stages of other machines' jobs here",
		Long: `Run stages of other machines' jobs here.

The jobs are those of the vault that are started with the same --nats and with --remote
for these stages: reader (if this machine sees the disks under the same paths), chunker,
seal, uploader. The vault is opened here, with its password: no key travels.
It runs until it is interrupted; killed at any time, what it held is done elsewhere.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), a, version, o) },
	}
	c.Flags().StringSliceVar(&o.stages, "stages", []string{flow.Seal}, "stages to serve: "+strings.Join(flow.Remotable(), ", "))
	c.Flags().StringToStringVar(&o.parallel, "parallel", nil, "workers per stage, as chunker=2,seal=3 (default: one)")
	o.nats.Add(c)
	return c
}

func run(ctx context.Context, a *session.App, version string, o workerOptions) error {
	if a.Settings.NATS == "" {
		return fault.Usage("no NATS server was named: give --nats, or set MILLRACE_NATS")
	}
	parallel := map[string]int{}
	for _, s := range o.stages {
		if !slices.Contains(flow.Remotable(), s) {
			return fault.Usage("--stages %s: it is of %s", s, strings.Join(flow.Remotable(), ", "))
		}
		parallel[s] = 1
	}
	for stage, text := range o.parallel {
		n, err := strconv.Atoi(text)
		if err != nil || parallel[stage] == 0 || n < 1 || n > 64 {
			return fault.Usage("--parallel %s=%s: a stage of --stages, and 1 to 64 workers", stage, text)
		}
		parallel[stage] = n
	}
	dial, err := o.nats.Dial(a.Settings.NATS)
	if err != nil {
		return err
	}
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fault.At("find", "this program", err)
	}
	log, err := logfile.New("stderr")
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	a.Note("serving %s for jobs of vault %s on %s", strings.Join(o.stages, ", "), v.ID, a.Settings.NATS)
	err = outpost.Serve(ctx, outpost.Options{
		Vault: v.Vault, Location: v.Location, NATS: dial, Command: []string{exe, "stage"}, State: a.Settings.State, Stages: o.stages,
		Parallel: parallel, Host: host, Version: version, Log: log, Note: a.Note,
	})
	if err != nil && ctx.Err() == nil {
		return fault.At("serve jobs on", a.Settings.NATS, err)
	}
	return nil
}
