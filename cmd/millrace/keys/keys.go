package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/keyring"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// verb is an app as these commands use it.
type verb struct{ *session.App }

// Command is key and its commands.
func Command(app *session.App) *cobra.Command {
	a := verb{app}
	c := &cobra.Command{
		Use:   "key",
		Short: "Passwords and keys of a vault",
		Long: `Passwords and keys of a vault. Each password and recovery key opens all of it.

Whoever has copied the vault and knows one password can read the copy for ever:
removing it protects what is written after the next key rotate, not what was before.`,
	}
	c.AddCommand(a.list(), a.add(), a.remove(), a.rotate())
	return c
}

// row is a key as scripts see it.
type row struct {
	Key        id.Key    `json:"key"`
	Kind       string    `json:"kind"`
	Label      string    `json:"label"`
	Created    time.Time `json:"created"`
	Generation int       `json:"generation"`
	Old        bool      `json:"old"` // of before a rotation
	Damaged    string    `json:"damaged,omitempty"`
}

func (a verb) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List what opens the vault; needs no password",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			location, err := a.Settings.VaultLocation()
			if err != nil {
				return err
			}
			rows, err := a.rows(c.Context(), location)
			if err != nil {
				return fault.At("list keys of vault", location, err)
			}
			a.print(rows)
			if slices.ContainsFunc(rows, func(r row) bool { return r.Damaged != "" }) {
				return fault.At("list keys of vault", location, fmt.Errorf("not all can be read: %w", vault.ErrDamaged))
			}
			return nil
		},
	}
}

func (a verb) rows(ctx context.Context, location string) ([]row, error) {
	folder, err := session.LocalFolder(location)
	if err != nil {
		return nil, err
	}
	st, err := dir.Open(folder)
	if err != nil {
		return nil, err
	}
	cfg, err := vault.ReadConfig(ctx, st)
	if err != nil {
		return nil, err
	}
	rows, newest := []row{}, 0
	for k, err := range vault.ReadKeys(ctx, st, cfg) {
		switch {
		case errors.Is(err, vault.ErrDamaged), errors.Is(err, vault.ErrNewer):
			rows = append(rows, row{Key: k.ID, Damaged: err.Error()})
		case err != nil:
			return nil, err
		default:
			newest = max(newest, k.Generation)
			rows = append(rows, row{Key: k.ID, Kind: k.Kind, Label: k.Label, Created: k.Created, Generation: k.Generation})
		}
	}
	for i := range rows {
		rows[i].Old = rows[i].Damaged == "" && rows[i].Generation < newest
	}
	return rows, nil
}

func (a verb) print(rows []row) {
	if a.Settings.JSON {
		a.PrintJSON(rows)
		return
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tKIND\tCREATED\tROTATION\tLABEL")
	for _, r := range rows {
		if r.Damaged != "" {
			name := "-"
			if !r.Key.IsZero() {
				name = id.Short(r.Key)
			}
			fmt.Fprintf(w, "%s\tdamaged\t-\t-\t%s\n", name, session.Plain(r.Damaged))
			continue
		}
		old := ""
		if r.Old {
			old = " (old)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d%s\t%s\n", id.Short(r.Key), r.Kind, r.Created.UTC().Format(time.RFC3339), r.Generation, old, session.Plain(r.Label))
	}
	_ = w.Flush()
}

func (a verb) add() *cobra.Command {
	var label, file string
	var recovery bool
	c := &cobra.Command{
		Use:   "add",
		Short: "Let one more password, or one more recovery key, open the vault",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if recovery && (file != "" || label != "") {
				return fault.Usage("--recovery makes a key of its own: give neither --new-password-file nor --label with it")
			}
			return a.open(c.Context(), func(ctx context.Context, v *session.Vault) error {
				k, err := a.addOne(ctx, v, recovery, file, label)
				if err == nil {
					a.tell("added", k)
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&file, "new-password-file", "", "file whose first line is the new password (default: it is asked for)")
	c.Flags().StringVar(&label, "label", "", "name of the password, for people")
	c.Flags().BoolVar(&recovery, "recovery", false, "make a recovery key and print it, this once")
	return c
}

func (a verb) addOne(ctx context.Context, v *session.Vault, recovery bool, file, label string) (vault.Key, error) {
	p, err := a.prepare(ctx, v.Vault, recovery, file, label)
	if err != nil {
		return vault.Key{}, err
	}
	keys, _, err := a.settle(ctx, v)
	if err == nil {
		err = room(keys, 1)
	}
	if err == nil {
		err = a.bring(ctx, v, v.Vault, []vault.Prepared{p})
	}
	return p.Key, err
}

func (a verb) prepare(ctx context.Context, v *vault.Vault, recovery bool, file, label string) (vault.Prepared, error) {
	if recovery {
		p, text, err := v.PrepareRecovery(a.Now())
		if err == nil {
			err = a.show(text)
		}
		return p, err
	}
	password, err := a.NewPassword(ctx, file)
	if err != nil {
		return vault.Prepared{}, err
	}
	defer clear(password)
	return v.PreparePassword(password, label, a.KDF, a.Now())
}

// show prints a recovery key, before it opens anything.
func (a verb) show(key string) error {
	if !a.Settings.JSON {
		_, err := fmt.Fprintf(a.Stdout, "recovery key  %s\n", key)
		return err
	}
	_, err := fmt.Fprintf(a.Stdout, "{\"type\":\"status\",\"recovery_key\":%q}\n", key)
	return err
}

func (a verb) tell(what string, k vault.Key) {
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type  string `json:"type"`
			Done  string `json:"done"`
			Key   id.Key `json:"key"`
			Kind  string `json:"kind"`
			Label string `json:"label"`
		}{"summary", what, k.ID, k.Kind, k.Label})
		return
	}
	a.Note("%s %s key %s %s", what, k.Kind, id.Short(k.ID), session.Plain(k.Label))
}

func (a verb) remove() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "remove KEY",
		Short: "Let a password or recovery key open the vault no more",
		Long: `Let a password or recovery key open the vault no more. KEY is the beginning of its id,
as key list shows it. The last key stays, and the last recovery key unless --force is given.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.open(c.Context(), func(ctx context.Context, v *session.Vault) error {
				k, err := a.take(ctx, v, args[0], force)
				if err == nil {
					a.tell("removed", k)
				}
				return err
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "remove the last recovery key, too")
	return c
}

// take removes the key whose id begins with prefix.
func (a verb) take(ctx context.Context, v *session.Vault, prefix string, force bool) (vault.Key, error) {
	keys, guard, err := a.settle(ctx, v)
	for err == nil {
		var k keyring.Key
		if k, err = choose(keys, prefix, force); err != nil {
			break
		}
		if err = a.drop(ctx, v, guard, []keyring.Key{k}, why(k)); err == nil {
			return k.Key, nil
		}
		if errors.Is(err, keyring.ErrChanged) {
			keys, guard, err = a.settle(ctx, v)
		}
	}
	return vault.Key{}, err
}

// why a key is removed.
func why(k keyring.Key) string {
	switch k.Standing {
	case keyring.Missing:
		return "gone"
	case keyring.Foreign:
		return "foreign"
	case keyring.Damaged:
		return "damaged"
	}
	return "asked"
}

// choose finds the key that an id begins, if it may go: one that opens the vault must be
// left, by what the ledger says.
func choose(keys []keyring.Key, prefix string, force bool) (found keyring.Key, err error) {
	matches := 0
	for _, k := range keys {
		if k.Standing != keyring.Removed && k.Standing != keyring.Announced && !k.ID.IsZero() && strings.HasPrefix(k.ID.String(), strings.ToLower(prefix)) {
			found = k
			matches++
		}
	}
	left, recovery := keyring.Left(keys, found.ID)
	switch {
	case matches == 0 || prefix == "":
		return found, fault.Usage("no key of the vault begins with %q: see millrace key list", prefix)
	case matches > 1:
		return found, fault.Usage("%d keys of the vault begin with %q: give more of it", matches, prefix)
	case left == 0:
		return found, fault.Usage("%s is the last key that opens the vault: add another with millrace key add", id.Short(found.ID))
	case found.Standing == keyring.Opens && found.Kind == vault.KindRecovery && recovery == 0 && !force:
		return found, fault.Usage("%s is the last recovery key: make another with millrace key add --recovery, or give --force", id.Short(found.ID))
	}
	return found, nil
}

// open opens the vault and does what is asked for.
func (a verb) open(ctx context.Context, do func(context.Context, *session.Vault) error) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	err = do(ctx, v)
	var f *fault.Fault
	if err != nil && !errors.As(err, &f) {
		err = fault.At("change keys of vault", v.Location, err)
	}
	return err
}
