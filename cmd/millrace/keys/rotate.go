package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/rotation"
	"github.com/millrace-backup/millrace/vault/store"
)

type choices struct {
	file  string   // of the password that opens the vault from now on; "" as now
	keep  []string // files of others that go on
	force bool
}

func (a verb) rotate() *cobra.Command {
	var o choices
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Seal with fresh keys from now on",
		Long: `Seal with fresh keys from now on. What is in the vault stays as it is and can be read;
what is written from now on cannot be read with what was copied from the vault before,
even by who knows a password of then. A new recovery key is printed, and the old ones
are removed.

The password that opens the vault now goes on, or the one in --new-password-file takes
its place. Other passwords go on if they are given with --keep-password-file; those that
are not are removed, which needs --force. A job that runs meanwhile fails with
keys-rotated as soon as another writes to the vault, so this is refused while one runs, unless --force is given.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.open(c.Context(), func(ctx context.Context, v *session.Vault) error { return a.turn(ctx, v, o) })
		},
	}
	c.Flags().StringVar(&o.file, "new-password-file", "", "file whose first line opens the vault from now on")
	c.Flags().StringArrayVar(&o.keep, "keep-password-file", nil, "file whose first line is another password that goes on; may be given several times")
	c.Flags().BoolVar(&o.force, "force", false, "remove passwords that are not given, and do not wait for jobs")
	return c
}

// turn rotates the keys: see the package's comment for what a crash leaves where.
func (a verb) turn(ctx context.Context, v *session.Vault, o choices) error {
	if err := a.idle(ctx, v, o.force); err != nil {
		return err
	}
	passwords, old, err := a.takeAlong(ctx, v, o)
	defer func() {
		for _, p := range passwords {
			clear(p.secret)
		}
	}()
	if err != nil {
		return err
	}
	fresh, err := rotation.Begin(ctx, v.Vault)
	if err != nil {
		return err
	}
	if _, err := fresh.AddRecovery(ctx, a.Now(), a.show); err != nil {
		return err
	}
	for _, p := range passwords {
		if _, err := fresh.AddPassword(ctx, p.secret, p.label, a.Now()); err != nil {
			return err
		}
	}
	metaKey, err := fresh.Keys.MetaKeyID()
	if err != nil {
		return err
	}
	rotated := events.KeysRotated{Generation: uint32(fresh.Keys.Generation()), MetaKey: metaKey, By: session.User()}
	if err := a.record(ctx, v, rotated); err != nil {
		return err
	}
	if err := rotation.End(ctx, fresh); err != nil {
		return err
	}
	removed := 0
	for _, k := range old {
		if k.Generation >= fresh.Keys.Generation() {
			continue // of another who rotates, with the same keys
		}
		if err := v.RemoveKey(ctx, k.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		removed++
	}
	a.told(rotated, len(passwords), removed)
	return nil
}

func (a verb) told(f events.KeysRotated, passwords, removed int) {
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type       string `json:"type"`
			Done       string `json:"done"`
			Generation uint32 `json:"generation"`
			Passwords  int    `json:"passwords"`
			Removed    int    `json:"removed"`
		}{"summary", "rotated", f.Generation, passwords, removed})
		return
	}
	a.Note("rotated for the %d. time: %d passwords and the recovery key above open the vault, %d keys from before are removed", f.Generation, passwords, removed)
}

// kept is a password that goes on.
type kept struct {
	secret []byte
	label  string
}

// takeAlong returns the passwords that go on, and the keys there are, which do not.
// A password that would be left behind is an error, unless that is wanted.
func (a verb) takeAlong(ctx context.Context, v *session.Vault, o choices) (out []kept, old []vault.Key, err error) {
	for k, err := range vault.ReadKeys(ctx, v.Store, v.Config) {
		if err != nil {
			return nil, nil, err // a rotation removes keys: not one that cannot be read
		}
		old = append(old, k)
	}
	left := map[id.Key]bool{}
	for _, k := range old {
		left[k.ID] = k.Kind == vault.KindPassword
	}
	take := func(secret []byte, must bool, from string) error {
		opens, err := v.OpenedBy(ctx, secret)
		if err != nil {
			return err
		}
		if must && len(opens) == 0 {
			return fault.At("read password file", from, vault.ErrWrongKey)
		}
		p := kept{secret: secret, label: "password"}
		for _, k := range old {
			if slices.Contains(opens, k.ID) {
				left[k.ID] = false
				p.label = k.Label
			}
		}
		out = append(out, p)
		return nil
	}
	now, err := a.Password(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	if o.file == "" {
		err = take(now, true, a.Settings.PasswordFile)
	} else {
		err = a.replace(ctx, v, o.file, now, left, take)
	}
	for _, file := range o.keep {
		if err == nil {
			var secret []byte
			if secret, err = a.NewPassword(ctx, file); err == nil {
				err = take(secret, true, file)
			}
		}
	}
	if err != nil {
		return out, nil, err
	}
	return out, old, leftBehind(old, left, o.force)
}

// replace takes the password in a file instead of the one that opens the vault now.
func (a verb) replace(ctx context.Context, v *session.Vault, file string, now []byte, left map[id.Key]bool, take func([]byte, bool, string) error) error {
	defer clear(now)
	opens, err := v.OpenedBy(ctx, now)
	if err != nil {
		return err
	}
	for _, k := range opens {
		left[k] = false
	}
	secret, err := a.NewPassword(ctx, file)
	if err != nil {
		return err
	}
	return take(secret, false, file)
}

func leftBehind(old []vault.Key, left map[id.Key]bool, force bool) error {
	var names []string
	for _, k := range old {
		if left[k.ID] {
			names = append(names, fmt.Sprintf("%s (%s)", id.Short(k.ID), session.Plain(k.Label)))
		}
	}
	if len(names) == 0 || force {
		return nil
	}
	return fault.Usage("these passwords would open the vault no more: %s; give each with --keep-password-file, or --force", strings.Join(names, ", "))
}

// idle refuses while a job runs, as far as its heartbeats in the vault tell.
func (a verb) idle(ctx context.Context, v *session.Vault, force bool) error {
	if force {
		return nil
	}
	s, err := v.Now(ctx)
	if err != nil {
		return err
	}
	for _, j := range s.JobList() {
		if !j.Open() {
			continue
		}
		n, err := lease.Newest(ctx, v.Store, j.ID)
		if err != nil {
			return err
		}
		if n > 0 {
			return &fault.Fault{Code: "job-running", Op: "rotate keys of vault", Object: v.Location,
				Err:    fmt.Errorf("job %s on %s has begun and not ended", id.Short(j.ID), j.Started.Host),
				Remedy: "wait for it; if its host is gone, the next backup of its guests ends it; with --force it is left to fail"}
		}
	}
	return nil
}
