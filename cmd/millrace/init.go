package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/genesis"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

type initOptions struct {
	cutter string
	label  string
	force  bool
}

func (a *app) initCommand() *cobra.Command {
	var o initOptions
	c := &cobra.Command{
		Use:   "init [VAULT]",
		Short: "Create a vault and its keys",
		Long: `Create a vault and its keys.

The folder is made if it is missing. The recovery key is printed once and stored
nowhere, and printed before the vault is there: it opens the vault when the password is lost, so keep it where neither
the vault nor this machine is.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				a.Settings.Vault = args[0]
			}
			return a.initVault(c.Context(), o)
		},
	}
	c.Flags().StringVar(&o.cutter, "cutter", chunk.Default().Name, "how disks are cut into chunks: aligned, fixed or fastcdc-v1.0.0; for the vault's whole life")
	c.Flags().StringVar(&o.label, "label", "", "name of the password, for people")
	c.Flags().BoolVar(&o.force, "force", false, "take a folder that holds other files")
	return c
}

func (a *app) initVault(ctx context.Context, o initOptions) error {
	location, err := a.Settings.VaultLocation()
	if err != nil {
		return err
	}
	folder, err := session.LocalFolder(location)
	if err != nil {
		return err
	}
	params := chunk.Default()
	params.Name = o.cutter
	if err := params.Check(); err != nil {
		return fault.Usage("--cutter %s: %w", o.cutter, err)
	}
	if err := fitForVault(folder, o.force); err != nil {
		return fault.At("create vault", location, err)
	}
	password, err := a.Password(ctx, true)
	if err != nil {
		return err
	}
	st, err := dir.Create(folder)
	if err != nil {
		return fault.At("create vault", location, err)
	}
	// The recovery key is shown before the vault exists: whoever is interrupted then
	// has a key too many, and not a vault that one password alone opens.
	show := func(v id.Vault, recovery string) error { return a.printKey(v, session.CanonicalPath(folder), recovery) }
	v, recovery, err := vault.Create(ctx, st, password, vault.CreateOptions{Label: o.label, KDF: a.KDF, Cutter: params, Now: a.Now, Recovery: show})
	clear(password)
	if err != nil {
		return fault.At("create vault", location, err)
	}
	checkpoint, err := a.firstFacts(ctx, v, session.CanonicalPath(folder))
	a.printVault(v, session.CanonicalPath(folder), recovery, checkpoint)
	if err != nil {
		return fault.At("write the first facts to vault", location, err)
	}
	return a.Witness(v.Config, checkpoint)
}

// fitForVault refuses a folder that is a vault, before anyone is asked for a
// password, and one with other things in it, in which later nobody could tell
// what is the vault's.
func fitForVault(folder string, force bool) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == vault.ConfigName {
			return vault.ErrVaultExists
		}
	}
	if len(entries) > 0 && !force {
		return &fault.Fault{Code: "exists", Err: fmt.Errorf("the folder holds %s, which is no vault", entries[0].Name()),
			Remedy: "choose an empty or new folder, or give --force to share this one"}
	}
	return nil
}

// firstFacts begins the ledger and remembers the vault on this machine.
func (a *app) firstFacts(ctx context.Context, v *vault.Vault, canonical string) (ledger.Checkpoint, error) {
	m := session.Memory{State: a.Settings.State}
	l, err := ledger.Open(ctx, v, ledger.Options{Cache: m.Cache(v.ID, "ledger"), Now: a.Now})
	if err != nil {
		return ledger.Checkpoint{}, err
	}
	c, err := genesis.Begin(ctx, v, l, version().Version)
	if err != nil {
		return ledger.Checkpoint{}, err
	}
	err = m.Meet(canonical, v.ID, a.Now())
	if err == nil {
		err = m.Keep(v.Config, c)
	}
	if err != nil {
		a.Note("millrace: %v; the next command will trust the vault anew", err)
	}
	return c, nil
}

// keyJSON says what will open the vault, before there is one.
type keyJSON struct {
	Type        string   `json:"type"`
	Vault       id.Vault `json:"vault"`
	Location    string   `json:"location"`
	RecoveryKey string   `json:"recovery_key"`
}

func (a *app) printKey(v id.Vault, location, recovery string) error {
	if !a.Settings.JSON {
		_, err := fmt.Fprintf(a.Stdout, "vault         %s\nlocation      %s\nrecovery key  %s\n", v, location, recovery)
		return err
	}
	text, err := json.Marshal(keyJSON{"status", v, location, recovery})
	if err == nil {
		_, err = fmt.Fprintf(a.Stdout, "%s\n", text)
	}
	return err
}

func (a *app) printVault(v *vault.Vault, location, recovery string, c ledger.Checkpoint) {
	if a.Settings.JSON {
		a.PrintJSON(struct {
			keyJSON
			Checkpoint uint64 `json:"checkpoint"`
		}{keyJSON{"summary", v.ID, location, recovery}, c.Size})
		return
	}
	a.Note("\nThe recovery key is shown this once and stored nowhere. Keep it apart from the vault\nand from this machine: it opens the vault when the password is lost.")
}
