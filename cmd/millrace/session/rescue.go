package session

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// RescueVault opens what is left of a vault: with the password alone, asking neither
// its ledger nor what this machine remembers, and without its own description if that
// is lost. It changes nothing, here or there.
func (a *App) RescueVault(ctx context.Context, location string) (*vault.Vault, error) {
	folder, err := LocalFolder(location)
	if err != nil {
		return nil, err
	}
	st, err := dir.Open(folder)
	if err != nil {
		return nil, fault.At("open vault", location, err)
	}
	password, err := a.Password(ctx, false)
	if err != nil {
		return nil, err
	}
	defer clear(password)
	v, err := vault.Open(ctx, st, password)
	if err == nil || errors.Is(err, vault.ErrWrongKey) || ctx.Err() != nil {
		return v, fault.At("open vault", location, err)
	}
	rescued, rescueErr := vault.Rescue(ctx, st, password)
	switch {
	case rescueErr == nil:
		a.Note("millrace: %v; the vault is opened by its keys alone", err)
		return rescued, nil
	case errors.Is(rescueErr, vault.ErrWrongKey):
		return nil, fault.At("open vault", location, rescueErr)
	case errors.Is(rescueErr, vault.ErrNoVault):
		return nil, &fault.Fault{Op: "open vault", Object: location, Err: errors.Join(err, rescueErr),
			Remedy: "there is no key in keys/: without one nothing here can be read by anyone; look for a copy of the folder keys"}
	}
	return nil, fault.At("open vault", location, errors.Join(err, rescueErr))
}

// Newer says that this machine has seen more of a vault than is there, or another
// history of it, by the same signs as [App.OpenVault]; or that what it has seen cannot be
// read, so that nobody knows. Nil if neither is so. Nothing is written.
func (a *App) Newer(ctx context.Context, v *vault.Vault) error {
	m := Memory{a.Settings.State}
	seen, copies, err := m.seen(v.Config)
	if err != nil {
		return fmt.Errorf("whether the vault was set back is not known: %w", err)
	}
	others, err := a.witnessed(v.Config)
	if err != nil {
		return fmt.Errorf("whether the vault was set back is not known: %w", err)
	}
	if seen == nil && copies == 0 && len(others) == 0 {
		return nil
	}
	l, err := ledger.Open(ctx, v, ledger.Options{Remembered: seen})
	if err == nil {
		next, _, _ := l.Head()
		err = m.shorter(v.ID, next, copies)
	}
	for _, s := range others {
		if err == nil {
			err = l.Compare(ctx, s.Checkpoint)
		}
	}
	if errors.Is(err, ledger.ErrRollback) || errors.Is(err, ledger.ErrForked) {
		return fmt.Errorf("this machine remembers a later state of the vault: %w", err)
	}
	return nil // a ledger that cannot be read is for who rescues what is left of it
}
