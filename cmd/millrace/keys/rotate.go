package keys

import (
	"bytes"
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
	"github.com/millrace-backup/millrace/ledger/keyring"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/rotation"
)

type choices struct {
	file  string   // of the password that opens the vault from now on; "" as now
	keep  []string // files of others that go on
	force bool
	// discard what a rotation that was never finished has left, and cannot be read.
	discard bool
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
its place. A recovery key opens it for this, too, and is replaced by the new one. Other passwords go on if they are given with --keep-password-file; those that
are not are removed, which needs --force. A job that runs meanwhile fails with
keys-rotated as soon as another writes to the vault, so this is refused while one runs, unless --force is given.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.open(c.Context(), func(ctx context.Context, v *session.Vault) error { return a.turn(ctx, v, o) })
		},
	}
	c.Flags().StringVar(&o.file, "new-password-file", "", "file whose first line opens the vault from now on")
	c.Flags().StringArrayVar(&o.keep, "keep-password-file", nil, "file whose first line is another password that goes on; may be given several times")
	c.Flags().BoolVar(&o.discard, "discard-unfinished", false, "delete what a rotation that was not finished has left, if it cannot be read; no other may be under way")
	c.Flags().BoolVar(&o.force, "force", false, "remove passwords that are not given, and do not wait for jobs")
	return c
}

// turn rotates the keys: see the package's comment for what a crash leaves where.
func (a verb) turn(ctx context.Context, v *session.Vault, o choices) error {
	if err := a.idle(ctx, v, o.force); err != nil {
		return err
	}
	keys, _, err := a.settle(ctx, v)
	if err != nil {
		return err
	}
	passwords, err := a.takeAlong(ctx, v, keys, o)
	defer func() {
		for _, p := range passwords {
			clear(p.secret)
		}
	}()
	if err == nil {
		err = room(keys, len(passwords)+1)
	}
	if err != nil {
		return err // and nothing has begun
	}
	fresh, err := a.begin(ctx, v, o)
	if err != nil {
		return err
	}
	recovery, text, err := fresh.PrepareRecovery(a.Now())
	if err != nil {
		return err
	}
	var prepared []vault.Prepared
	for _, p := range passwords {
		one, err := fresh.PreparePassword(p.secret, p.label, a.KDF, a.Now())
		if err != nil {
			return err
		}
		prepared = append(prepared, one)
	}
	// Passwords first: whoever has one can go on from whatever a crash leaves.
	prepared = append(prepared, recovery)
	metaKey, err := fresh.Keys.MetaKeyID()
	if err == nil {
		err = a.show(text)
	}
	if err != nil {
		return err
	}
	rotated := events.KeysRotated{Generation: uint32(fresh.Keys.Generation()), MetaKey: metaKey, By: session.User()}
	if err := a.bring(ctx, v, fresh, prepared, rotated); err != nil {
		return err
	}
	if err := rotation.End(ctx, fresh); err != nil {
		return err
	}
	n, err := a.Rekeyed(ctx, v, fresh)
	if err != nil {
		return err
	}
	removed, err := a.dropOld(ctx, n)
	if err == nil {
		a.told(rotated, len(passwords), removed)
	}
	return err
}

// begin makes the fresh keys, or takes those of somebody who began before.
func (a verb) begin(ctx context.Context, v *session.Vault, o choices) (*vault.Vault, error) {
	if o.discard {
		if err := rotation.Discard(ctx, v.Vault); err != nil {
			return nil, err
		}
	}
	fresh, err := rotation.Begin(ctx, v.Vault)
	if errors.Is(err, rotation.ErrUnreadable) {
		return nil, &fault.Fault{Op: "rotate keys of vault", Object: v.Location, Err: err,
			Remedy: "make sure that nobody else is rotating the keys of this vault, and give --discard-unfinished, which deletes it: nothing has been sealed with what is in it unless a rotation is under way"}
	}
	return fresh, err
}

// dropOld removes the keys from before; v is opened with the fresh ones.
func (a verb) dropOld(ctx context.Context, v *session.Vault) (removed int, err error) {
	for {
		keys, guard, err := a.settle(ctx, v)
		if err != nil {
			return 0, err
		}
		var old []keyring.Key
		for _, k := range keys {
			if k.Standing == keyring.Opens && k.Generation < v.Keys.Generation() {
				old = append(old, k)
			}
		}
		if len(old) == 0 {
			return 0, nil
		}
		if err = a.drop(ctx, v, guard, old, "rotated"); err == nil || !errors.Is(err, keyring.ErrChanged) {
			return len(old), err
		}
	}
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

// takeAlong returns the passwords that go on. One that would be left behind is an error,
// unless that is wanted. A recovery key that opens the vault now does not go on: a new one
// takes its place.
func (a verb) takeAlong(ctx context.Context, v *session.Vault, keys []keyring.Key, o choices) (out []kept, err error) {
	left := map[id.Key]bool{}
	for _, k := range keys {
		left[k.ID] = k.Standing == keyring.Opens && k.Kind == vault.KindPassword
	}
	// take says which keys the secret opens, and takes it along if it is to go on.
	take := func(secret []byte, goesOn, must bool, from string) error {
		opens, err := v.OpenedBy(ctx, secret)
		if err != nil {
			return err
		}
		if must && len(opens) == 0 {
			return fault.At("read password file", from, vault.ErrWrongKey)
		}
		p := kept{secret: secret, label: "password"}
		for _, k := range keys {
			if slices.Contains(opens, k.ID) {
				left[k.ID] = false
				if k.Kind == vault.KindPassword {
					p.label = k.Label
				}
			}
		}
		if !goesOn || slices.ContainsFunc(out, func(q kept) bool { return bytes.Equal(p.secret, q.secret) }) {
			clear(secret)
			return nil
		}
		out = append(out, p)
		if err := vault.CheckPassword(secret); err != nil {
			return fault.Usage("the password in %s: %v", from, err)
		}
		return nil
	}
	now, err := a.Password(ctx, false)
	if err != nil {
		return nil, err
	}
	isPassword := vault.CheckPassword(now) == nil
	err = take(now, isPassword && o.file == "", true, a.Settings.PasswordFile)
	next := func(file string, must bool) {
		var secret []byte
		if secret, err = a.NewPassword(ctx, file); err == nil {
			err = take(secret, true, must, file)
		}
	}
	if err == nil && o.file != "" {
		next(o.file, false)
	}
	for _, file := range o.keep {
		if err == nil {
			next(file, true)
		}
	}
	if err != nil {
		return out, err
	}
	return out, leftBehind(keys, left, o.force)
}

func leftBehind(keys []keyring.Key, left map[id.Key]bool, force bool) error {
	var names []string
	for _, k := range keys {
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
